"""Row `commands`: what a task asks of Redis, from its dispatch to its stored end."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TypedDict

from devtools.bench.connections import TRAFFIC
from devtools.bench.contestants import Running, cluster
from devtools.bench.fleet import Fleet
from devtools.bench.load import burst, steady
from devtools.bench.redis_cost import RedisUse, Watched, redis_use, time_by_kind, watching
from devtools.bench.rows.base import Lab, Row, figure
from devtools.bench.rows.gathering import gathering

__all__ = ["commands"]

DEVICES, AT_ONCE = 100, 64
# Tasks a second that come evenly, and for how many seconds.
PACES = ((50, 15), (200, 10), (600, 8))
QUICK_PACES = ((20, 2), (50, 1))
HOW = (
    f"{DEVICES} devices, {AT_ONCE} requests at once; commands as clients send them (a script is one) and those that "
    "scripts call, counted in a stretch that was watched with MONITOR; which keys Redis's time goes to, by its SLOWLOG "
    "in another; processor time of Redis from INFO in a third, less what the cluster uses while nothing is asked of "
    f"it; the same at {', '.join(str(per_s) for per_s, _ in PACES)} tasks/s that come evenly, where few of them share "
    "pipelines; nobody reads results meanwhile"
)
END_S = 1.0


class Paced(TypedDict):
    """What a task costs when so many a second come evenly: microseconds of the nodes and of Redis."""

    per_s: int
    node_us: float
    redis_us: float


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
    paced: Sequence[Paced]


async def commands(lab: Lab) -> Row:
    """Commands and microseconds a task. Raises BenchError, ScriptError."""
    costs = [await _cost(lab) for _ in range(lab.rounds)]
    watched = lab.scale(1000, 100)
    sent = [cost.watched.sent.total() / watched for cost in costs]
    in_scripts = [cost.watched.in_scripts.total() / watched for cost in costs]
    last, timed = costs[-1], lab.scale(2000, 100)
    paces = [one["per_s"] for one in last.paced]
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
            beside={f"at {paces[i]} tasks/s, µs": [c.paced[i]["redis_us"] for c in costs] for i in range(len(paces))},
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
        "paced": [_median([cost.paced[i] for cost in costs]) for i in range(len(paces))],
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
        paced = [
            await _paced(running, fleet, per_s, seconds, node.total_s / idle_s, idle.cpu_s / idle_s)
            for per_s, seconds in (QUICK_PACES if lab.quick else PACES)
        ]
        return _Cost(
            watched=watched,
            by_kind_us=by_kind_us,
            used=used,
            tasks=tasks,
            cpu_us=cpu_us,
            client_bytes=traffic,
            idle=a_second,
            paced=paced,
        )


async def _paced(
    running: Running, fleet: Fleet, per_s: int, seconds: float, node_rest: float, redis_rest: float
) -> Paced:
    """At one pace, less what nodes and Redis use at rest (processors)."""
    cpu, start, loop = running.cpu(), redis_use(running.redis), asyncio.get_running_loop()
    began = loop.time()
    numbers = await steady(running, fleet, rate_per_s=per_s, seconds=seconds)
    took_s = loop.time() - began
    used, redis_used = running.cpu() - cpu, redis_use(running.redis) - start
    return {
        "per_s": per_s,
        "node_us": (used.total_s - node_rest * took_s) / len(numbers) * 1e6,
        "redis_us": (redis_used.cpu_s - redis_rest * took_s) / len(numbers) * 1e6,
    }


def _median(rounds: Sequence[Paced]) -> Paced:
    return {
        "per_s": rounds[0]["per_s"],
        "node_us": median(one["node_us"] for one in rounds),
        "redis_us": median(one["redis_us"] for one in rounds),
    }


async def _tasks(lab: Lab, running: Running, fleet: Fleet, count: int) -> None:
    """So many tasks, to their ends, which nobody reads: reading costs commands, too."""
    unread = replace(running, completes=False)
    await burst(unread, fleet, count, at_once=lab.scale(AT_ONCE, 8))
    await asyncio.sleep(END_S)
