"""Row `commands`: what a task asks of Redis, from its dispatch to its stored end."""

import asyncio
from dataclasses import dataclass, replace

from lib.bench.connections import TRAFFIC
from lib.bench.contestants import Running, cluster
from lib.bench.fleet import Fleet
from lib.bench.load import burst
from lib.bench.redis_cost import RedisUse, Watched, redis_use, watching
from lib.bench.rows.base import Lab, Row, figure
from lib.bench.rows.gathering import gathering

__all__ = ["commands"]

DEVICES, AT_ONCE = 100, 64
HOW = (
    f"{DEVICES} devices, {AT_ONCE} requests at once; commands as clients send them (a script is one) and those that "
    "scripts call, counted in a stretch that was watched with MONITOR; processor time of Redis from INFO in another "
    "stretch, less what the cluster uses while nothing is asked of it; nobody reads results meanwhile"
)
END_S = 1.0


@dataclass(frozen=True)
class _Cost:
    """Of one task, but `idle` of one second of an idle cluster."""

    watched: Watched
    used: RedisUse
    tasks: int
    cpu_us: float
    client_bytes: int
    idle: RedisUse


async def commands(lab: Lab) -> Row:
    """Commands and microseconds a task. Raises BenchError, ScriptError."""
    costs = [await _cost(lab) for _ in range(lab.rounds)]
    watched = lab.scale(1000, 100)
    sent = [cost.watched.sent.total() / watched for cost in costs]
    in_scripts = [cost.watched.in_scripts.total() / watched for cost in costs]
    last = costs[-1]
    figures = [
        figure(
            "commands/sent",
            "Redis commands per task from dispatch to stored end",
            "",
            sent,
            better="lower",
            floor=8,
            aim=5,
            beside={"called by scripts": in_scripts},
        ),
        figure("commands/cpu", "Redis CPU per task", "µs", [c.cpu_us for c in costs], better="lower", floor=40, aim=20),
    ]
    details = {
        "sent_per_task": {name: n / watched for name, n in last.watched.sent.most_common()},
        "in_scripts_per_task": {name: n / watched for name, n in last.watched.in_scripts.most_common()},
        "by_key_per_task": {name: n / watched for name, n in last.watched.by_key.most_common()},
        "redis_cpu_us_per_task": last.cpu_us,
        "redis_in_bytes_per_task": last.used.net_in_bytes / last.tasks,
        "redis_out_bytes_per_task": last.used.net_out_bytes / last.tasks,
        "client_bytes_per_task": last.client_bytes / last.tasks,
        "idle_commands_per_s": last.idle.commands,
        "idle_cpu_us_per_s": last.idle.cpu_s * 1e6,
    }
    return Row("commands", figures, details, HOW)


async def _cost(lab: Lab) -> _Cost:
    async with gathering(lab, cluster(), lab.scale(DEVICES, 10)) as (running, fleet):
        await _tasks(lab, running, fleet, lab.scale(1000, 50))
        idle_s = lab.scale(5, 1)
        start = redis_use(running.redis)
        await asyncio.sleep(idle_s)
        idle = redis_use(running.redis) - start
        tasks = lab.scale(10_000, 200)
        began, start, traffic = asyncio.get_running_loop().time(), redis_use(running.redis), TRAFFIC.total
        await _tasks(lab, running, fleet, tasks)
        traffic = TRAFFIC.total - traffic
        used, took_s = redis_use(running.redis) - start, asyncio.get_running_loop().time() - began
        async with watching(running.redis) as watched:
            await _tasks(lab, running, fleet, lab.scale(1000, 100))
        cpu_us = (used.cpu_s - idle.cpu_s / idle_s * took_s) / tasks * 1e6
        a_second = RedisUse(idle.cpu_s / idle_s, int(idle.commands / idle_s), 0, 0, 0)
        return _Cost(watched, used, tasks, cpu_us, traffic, a_second)


async def _tasks(lab: Lab, running: Running, fleet: Fleet, count: int) -> None:
    """So many tasks, to their ends, which nobody reads: reading costs commands, too."""
    unread = replace(running, completes=False)
    await burst(unread, fleet, count, at_once=lab.scale(AT_ONCE, 8))
    await asyncio.sleep(END_S)
