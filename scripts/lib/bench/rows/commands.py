"""Row `commands`: what a task asks of Redis, from its dispatch to its stored end."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median

from lib.bench.connections import TRAFFIC
from lib.bench.contestants import Running, cluster
from lib.bench.fleet import Fleet
from lib.bench.load import burst, steady
from lib.bench.redis_cost import RedisUse, Watched, redis_use, time_by_kind, watching
from lib.bench.rows.base import Lab, Row, figure
from lib.bench.rows.gathering import gathering

__all__ = ["commands"]

DEVICES, AT_ONCE, PACE_PER_S = 100, 64, 50
HOW = (
    f"{DEVICES} devices, {AT_ONCE} requests at once; commands as clients send them (a script is one) and those that "
    "scripts call, counted in a stretch that was watched with MONITOR; which keys Redis's time goes to, by its SLOWLOG "
    "in another; processor time of Redis from INFO in a third, less what the cluster uses while nothing is asked of "
    f"it; the same at {PACE_PER_S} tasks/s, where tasks do not share pipelines; nobody reads results meanwhile"
)
END_S = 1.0


@dataclass(frozen=True)
class _Cost:
    """Of one task, but `idle` of one second of an idle cluster."""

    watched: Watched
    by_kind_us: Mapping[str, int]
    used: RedisUse
    tasks: int
    cpu_us: float
    client_bytes: int
    idle: RedisUse
    paced_node_us: float
    paced_redis_us: float


async def commands(lab: Lab) -> Row:
    """Commands and microseconds a task. Raises BenchError, ScriptError."""
    costs = [await _cost(lab) for _ in range(lab.rounds)]
    watched = lab.scale(1000, 100)
    sent = [cost.watched.sent.total() / watched for cost in costs]
    in_scripts = [cost.watched.in_scripts.total() / watched for cost in costs]
    last, timed = costs[-1], lab.scale(2000, 100)
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
        figure(
            "commands/cpu",
            "Redis CPU per task",
            "µs",
            [c.cpu_us for c in costs],
            better="lower",
            floor=40,
            aim=20,
            beside={f"at {PACE_PER_S} tasks/s, µs": [c.paced_redis_us for c in costs]},
        ),
    ]
    details = {
        "sent_per_task": {name: n / watched for name, n in last.watched.sent.most_common()},
        "in_scripts_per_task": {name: n / watched for name, n in last.watched.in_scripts.most_common()},
        "by_key_per_task": {name: n / watched for name, n in last.watched.by_key.most_common()},
        "us_by_key_per_task": {name: us / timed for name, us in _most_first(last.by_kind_us)},
        "redis_in_bytes_per_task": last.used.net_in_bytes / last.tasks,
        "redis_out_bytes_per_task": last.used.net_out_bytes / last.tasks,
        "client_bytes_per_task": last.client_bytes / last.tasks,
        "paced_per_s": PACE_PER_S,
        "paced_node_us_per_task": median(c.paced_node_us for c in costs),
        "paced_redis_us_per_task": median(c.paced_redis_us for c in costs),
        "idle_commands_per_s": last.idle.commands,
        "idle_cpu_us_per_s": last.idle.cpu_s * 1e6,
    }
    return Row("commands", figures, details, HOW)


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda one: -one[1])


async def _cost(lab: Lab) -> _Cost:
    async with gathering(lab, cluster(), lab.scale(DEVICES, 10)) as (running, fleet):
        await _tasks(lab, running, fleet, lab.scale(1000, 50))
        idle_s = lab.scale(5, 1)
        start, node = redis_use(running.redis), running.cpu()
        await asyncio.sleep(idle_s)
        idle, node = redis_use(running.redis) - start, running.cpu() - node
        tasks, traffic = lab.scale(10_000, 200), TRAFFIC.total
        began, start = asyncio.get_running_loop().time(), redis_use(running.redis)
        await _tasks(lab, running, fleet, tasks)
        used, took_s = redis_use(running.redis) - start, asyncio.get_running_loop().time() - began
        traffic = TRAFFIC.total - traffic
        async with watching(running.redis) as watched:
            await _tasks(lab, running, fleet, lab.scale(1000, 100))
        with time_by_kind(running.redis) as by_kind_us:
            await _tasks(lab, running, fleet, lab.scale(2000, 100))
        cpu_us = (used.cpu_s - idle.cpu_s / idle_s * took_s) / tasks * 1e6
        a_second = RedisUse(idle.cpu_s / idle_s, int(idle.commands / idle_s), 0, 0, 0)
        paced_node_us, paced_redis_us = await _paced(lab, running, fleet)
        return _Cost(
            watched=watched,
            by_kind_us=by_kind_us,
            used=used,
            tasks=tasks,
            cpu_us=cpu_us,
            client_bytes=traffic,
            idle=a_second,
            paced_node_us=paced_node_us - node.total_s / idle_s / PACE_PER_S * 1e6,
            paced_redis_us=paced_redis_us - idle.cpu_s / idle_s / PACE_PER_S * 1e6,
        )


async def _paced(lab: Lab, running: Running, fleet: Fleet) -> tuple[float, float]:
    """Microseconds of the nodes and of Redis, a task, when tasks come one by one."""
    seconds = lab.scale(15, 2)
    cpu, start = running.cpu(), redis_use(running.redis)
    numbers = await steady(running, fleet, rate_per_s=PACE_PER_S, seconds=seconds)
    used, redis_used = running.cpu() - cpu, redis_use(running.redis) - start
    return used.total_s / len(numbers) * 1e6, redis_used.cpu_s / len(numbers) * 1e6


async def _tasks(lab: Lab, running: Running, fleet: Fleet, count: int) -> None:
    """So many tasks, to their ends, which nobody reads: reading costs commands, too."""
    unread = replace(running, completes=False)
    await burst(unread, fleet, count, at_once=lab.scale(AT_ONCE, 8))
    await asyncio.sleep(END_S)
