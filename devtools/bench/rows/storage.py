"""Row `storage`: what stays in Redis of a registered device, and of a task that has ended."""

import asyncio
from typing import NamedTuple

from devtools.bench.contestants import FLEET_SETTINGS, Running, cluster
from devtools.bench.fleet import Fleet
from devtools.bench.load import burst, verify
from devtools.bench.redis_cost import memory_by_kind, redis_use
from devtools.bench.rows.base import Lab, Row, figure
from devtools.bench.rows.gathering import gathering

__all__ = ["storage"]

DEVICES, TASKS = 5_000, 10_000
HOW = (
    f"growth of Redis's memory, buffers of connections left out, by {DEVICES:,} devices with a profile of 150 bytes, "
    f"and by {TASKS:,} finished tasks with a result of two bytes on 100 devices; the capped streams and indexes of the "
    "whole cluster are part of it while they fill"
)
FIRST = 100
SETTLE_S = 2.0


class _Stored(NamedTuple):
    """Bytes."""

    device: float
    task: float
    kinds: dict[str, tuple[int, int]]


async def storage(lab: Lab) -> Row:
    """Kilobytes a device and a task. Raises BenchError, ScriptError."""
    stored = [await _stored(lab) for _ in range(lab.few_rounds)]
    figures = [
        figure(
            "storage/device",
            "Redis memory per registered device",
            "KB",
            [s.device / 1024 for s in stored],
            better="lower",
            floor=3,
            aim=1.5,
        ),
        figure(
            "storage/task",
            "Redis memory per finished task with a small result",
            "KB",
            [s.task / 1024 for s in stored],
            better="lower",
            floor=3,
            aim=1.5,
        ),
    ]
    kinds = {kind: {"keys": count, "bytes": size} for kind, (count, size) in sorted(stored[-1].kinds.items())}
    return Row("storage", figures, {"by_kind": kinds}, HOW)


async def _stored(lab: Lab) -> _Stored:
    async with gathering(lab, cluster(2, FLEET_SETTINGS), FIRST) as (running, fleet):
        task = await _of_tasks(lab, running, fleet)
        before = redis_use(running.redis)
        devices = lab.scale(DEVICES, 200)
        await fleet.arrive(devices, at_once=50)
        await asyncio.sleep(SETTLE_S)
        device = (redis_use(running.redis) - before).stored_bytes / devices
        return _Stored(device, task, memory_by_kind(running.redis))


async def _of_tasks(lab: Lab, running: Running, fleet: Fleet) -> float:
    _, numbers = await burst(running, fleet, lab.scale(500, 50), at_once=16)
    await verify(running, numbers)
    await asyncio.sleep(SETTLE_S)
    before = redis_use(running.redis)
    tasks = lab.scale(TASKS, 200)
    _, numbers = await burst(running, fleet, tasks, at_once=32)
    await verify(running, numbers)
    await asyncio.sleep(SETTLE_S)
    return (redis_use(running.redis) - before).stored_bytes / tasks
