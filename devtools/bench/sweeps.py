"""Throughput and delivery against one thing that grows: requests at once, devices, nodes.

`SWEEPS` names them. A point is measured once a round; the order of a round is the order of the axis, since devices are
only ever added to a fleet that is there.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from devtools.bench.contestants import FLEET_SETTINGS, REFERENCE, SOCKETIO, Contestant, Running, cluster
from devtools.bench.errors import BenchError
from devtools.bench.fleet import Fleet
from devtools.bench.load import burst, verify
from devtools.bench.rows import Lab
from devtools.bench.rows.gathering import gathering

__all__ = ["SWEEPS", "Sweep", "sweep"]

AT_ONCE, DEVICES = 64, 100
Curve = dict[int, list[dict[str, float]]]
Curves = dict[str, Curve]


@dataclass(frozen=True)
class Sweep:
    """An axis: its title, the points on it, and how one round of it is measured into the curves."""

    name: str
    axis: str
    text: str
    points: Sequence[int]
    quick_points: Sequence[int]
    round: Callable[[Lab, Sequence[int], Curves], Awaitable[None]]


async def sweep(one: Sweep, lab: Lab) -> dict[str, Any]:
    """All its points in every round, as JSON: by contestant, by point, a list. Raises BenchError, ScriptError."""
    curves: Curves = defaultdict(lambda: defaultdict(list))
    points = one.quick_points if lab.quick else one.points
    for _ in range(lab.few_rounds):
        await one.round(lab, points, curves)
    return {name: {str(x): values for x, values in curve.items()} for name, curve in curves.items()}


def _contestants(nodes: int = 2) -> list[Contestant]:
    return [cluster(nodes, FLEET_SETTINGS), REFERENCE, SOCKETIO]


async def _concurrency(lab: Lab, points: Sequence[int], curves: Curves) -> None:
    for contestant in _contestants():
        async with gathering(lab, contestant, lab.scale(DEVICES, 10)) as (running, fleet):
            await _point(lab, running, fleet, 16, 1000)
            for at_once in points:
                tasks = min(8000, max(1000, 200 * at_once))
                curves[contestant.name][at_once].append(await _point(lab, running, fleet, at_once, tasks))


async def _devices(lab: Lab, points: Sequence[int], curves: Curves) -> None:
    for contestant in _contestants():
        async with gathering(lab, contestant, points[0]) as (running, fleet):
            await _point(lab, running, fleet, 16, 1000)
            for devices in points:
                await fleet.arrive(devices - len(fleet.devices), at_once=50)
                curves[contestant.name][devices].append(await _point(lab, running, fleet, AT_ONCE, max(8000, devices)))


async def _nodes(lab: Lab, points: Sequence[int], curves: Curves) -> None:
    for nodes in points:
        contestant = cluster(nodes, FLEET_SETTINGS, spread=True)
        async with gathering(lab, contestant, lab.scale(DEVICES, 12)) as (running, fleet):
            await _point(lab, running, fleet, 16, 1000)
            curves[contestant.name][nodes].append(await _point(lab, running, fleet, AT_ONCE, 8000))


async def _point(lab: Lab, running: Running, fleet: Fleet, at_once: int, tasks: int) -> dict[str, float]:
    lab.settle()
    tasks = lab.scale(tasks, 40)
    cpu, redis_cpu = running.cpu(), running.redis_cpu()
    load, numbers = await burst(running, fleet, tasks, at_once=at_once)
    used, redis_used = running.cpu() - cpu, running.redis_cpu() - redis_cpu
    await verify(running, numbers)
    if load.deliver is None:
        raise BenchError("nothing was delivered")
    return {
        "per_s": load.completed_per_s or load.delivered_per_s,
        "p50_us": load.deliver.p50_us,
        "p99_us": load.deliver.p99_us,
        "server_us": used.total_s / tasks * 1e6,
        "redis_us": redis_used.total_s / tasks * 1e6,
    }


SWEEPS = (
    Sweep(
        "concurrency",
        "requests at once",
        f"{DEVICES} devices, two nodes on the same processor",
        (1, 2, 4, 8, 16, 32, 64, 128, 256),
        (1, 8),
        _concurrency,
    ),
    Sweep(
        "devices",
        "registered devices",
        f"{AT_ONCE} requests at once, spread over all devices; two nodes on the same processor, sockets on one of them",
        (10, 100, 1000, 10_000),
        (10, 100),
        _devices,
    ),
    Sweep(
        "nodes",
        "nodes",
        f"{DEVICES} devices and {AT_ONCE} requests at once, both spread over all nodes, which share the processors "
        "that are set aside for servers",
        (1, 2, 3, 4),
        (1, 2),
        _nodes,
    ),
)
