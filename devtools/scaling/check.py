"""Predictions beside runs, at sizes that the costs were not measured at.

A fleet is connected, beats and gets tasks at a steady pace; what that takes of the nodes, of Redis and of memory is
compared with what the model says. A model that is off here is no ground for a million devices.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from devtools.bench.connections import TRAFFIC
from devtools.bench.contestants import FLEET_SETTINGS, Running, cluster
from devtools.bench.fleet import Fleet
from devtools.bench.load import steady, verify
from devtools.bench.processes import resident_bytes
from devtools.bench.redis_cost import redis_use
from devtools.bench.rows import Lab
from devtools.bench.rows.gathering import gathering
from devtools.scaling.costs import Costs
from devtools.scaling.model import demand
from devtools.scaling.placement import placed

__all__ = ["HEARTBEAT_S", "ON_SHARDS", "POINTS", "Compared", "Point", "Shard", "compare", "compare_shards"]

HEARTBEAT_S = 20
MB = 2**20


@dataclass(frozen=True)
class Point:
    """A size to look at."""

    devices: int
    tasks_per_s: float
    seconds: float
    nodes: int = 2


POINTS = (
    Point(1_000, 0, 25),
    Point(200, 25, 25),
    Point(200, 400, 15),
    Point(200, 1_000, 15),
    Point(3_000, 100, 25),
    Point(5_000, 50, 25),
    Point(600, 100, 25, nodes=6),
)

ON_SHARDS = Point(600, 200, 20)


@dataclass(frozen=True)
class Shard:
    """A primary's part of what tasks ask of Redis: predicted, of processor time, of commands."""

    predicted: float
    processor: float
    commands: float


@dataclass(frozen=True)
class Compared:
    """One quantity at one size."""

    point: Point
    what: str
    unit: str
    predicted: float
    measured: float


async def compare(costs: Costs, lab: Lab, points: Sequence[Point] = POINTS) -> list[Compared]:
    """Every quantity at every size. Raises BenchError, ScriptError."""
    return [line for point in points for line in await _at(costs, lab, point)]


async def compare_shards(costs: Costs, lab: Lab, point: Point = ON_SHARDS) -> list[Shard]:
    """How the work lies on the primaries of a real Redis Cluster. Raises BenchError, ScriptError."""
    contestant = cluster(point.nodes, FLEET_SETTINGS, topology="cluster")
    async with gathering(lab, contestant, point.devices) as (running, fleet):
        quiet_s = 5.0
        start = [redis_use(server) for server in running.primaries]
        await asyncio.sleep(quiet_s)
        rest = [redis_use(server) - used for server, used in zip(running.primaries, start, strict=True)]
        start, loop = [redis_use(server) for server in running.primaries], asyncio.get_running_loop()
        began = loop.time()
        await _work(running, fleet, point)
        took = (loop.time() - began) / quiet_s
        spent = [redis_use(server) - used for server, used in zip(running.primaries, start, strict=True)]
    # What an idle server uses, replication and gossip of the cluster among it, is the same on each.
    busy = [used.cpu_s - idle.cpu_s * took for used, idle in zip(spent, rest, strict=True)]
    asked = [used.commands - idle.commands * took for used, idle in zip(spent, rest, strict=True)]
    says = placed(
        replace(costs, hot_us_per_node_s={}, redis_us_per_device_s=0.0),
        devices=point.devices,
        tasks_per_s=point.tasks_per_s,
        nodes=point.nodes,
        shards=len(busy),
    )
    shares = (_shares(says.loads), _shares(busy), _shares(asked))
    return [Shard(*one) for one in zip(*shares, strict=True)]


def _shares(values: Sequence[float]) -> list[float]:
    return [value / sum(values) for value in values]


async def _at(costs: Costs, lab: Lab, point: Point) -> list[Compared]:
    says = demand(
        costs, devices=point.devices, tasks_per_s=point.tasks_per_s, nodes=point.nodes, retention_s=point.seconds
    )
    # Two nodes as they were measured, sockets on one and REST on the other; more of them as they would be used.
    contestant = cluster(point.nodes, FLEET_SETTINGS, spread=point.nodes > 2)
    async with gathering(lab, contestant, point.devices) as (running, fleet):
        async with fleet.beating(HEARTBEAT_S):
            await asyncio.sleep(3.0)
            before = redis_use(running.redis)
            cpu, traffic, loop = running.cpu(), TRAFFIC.total, asyncio.get_running_loop()
            start = loop.time()
            await _work(running, fleet, point)
            took_s = loop.time() - start
            used, spent = redis_use(running.redis) - before, running.cpu() - cpu
            sent = TRAFFIC.total - traffic
        resident = sum(resident_bytes(pid) for pid in running.pids.values())
    lines = [
        ("processors of the nodes", "%", says.node_processors * 100, spent.total_s / took_s * 100),
        ("processor of Redis", "%", says.redis_processors * 100, used.cpu_s / took_s * 100),
        ("resident memory of the nodes", "MB", says.node_bytes / MB, resident / MB),
        ("traffic of clients", "KB/s", says.client_bytes_s / 1024, sent / took_s / 1024),
    ]
    if point.tasks_per_s:
        stored = costs.redis_bytes_per_task * point.tasks_per_s * point.seconds
        lines.append(("what tasks left in Redis", "MB", stored / MB, used.stored_bytes / MB))
    return [Compared(point, what, unit, predicted, measured) for what, unit, predicted, measured in lines]


async def _work(running: Running, fleet: Fleet, point: Point) -> None:
    if not point.tasks_per_s:
        await asyncio.sleep(point.seconds)
        return
    numbers = await steady(running, fleet, rate_per_s=point.tasks_per_s, seconds=point.seconds)
    # The last one's end says that all of them are over; reading them all would be measured, too.
    await verify(running, numbers[-1:])
