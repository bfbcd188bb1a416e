"""The model: demand is linear in devices, tasks per second and nodes; what is there is linear in nodes and shards.

Two things do not follow from adding machines: a key that is one slot stays on one shard, and retention multiplies the
memory of results. Both come out of `plan` as what they are: a bound, and a number of shards.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lib.scaling.costs import Costs

__all__ = ["Assumptions", "Demand", "Plan", "Saturation", "demand", "plan", "saturation"]

US = 1e6
FEWEST_NODES = 2


@dataclass(frozen=True)
class Assumptions:
    """What nobody measured: how full a processor may be, and what machines and settings there are.

    A node is one process and uses one processor; so does a Redis server. `connections_per_node` is the setting
    `max_connections`, `retention_s` the setting `result_ttl_s`.
    """

    utilisation: float = 0.6
    connections_per_node: int = 20_000
    redis_bytes_per_shard: int = 16 * 2**30
    retention_s: int = 86_400


@dataclass(frozen=True)
class Demand:
    """What devices and tasks ask for, on so many nodes. Processors are busy seconds per second."""

    node_processors: float
    redis_processors: float
    node_bytes: float
    redis_bytes: float
    redis_net_bytes_s: float
    client_bytes_s: float
    hot: Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """How many of each, and what decides that number. `hot_key` is the busiest key of one slot, `hot` its share of a
    processor: above `Assumptions.utilisation`, no number of shards helps."""

    nodes: int
    nodes_for: str
    shards: int
    shards_for: str
    hot_key: str
    hot: float
    demand: Demand


@dataclass(frozen=True)
class Saturation:
    """Something that is full at so many tasks a second, with two nodes and one Redis, or however many there are."""

    what: str
    tasks_per_s: float
    remedy: str


def demand(costs: Costs, *, devices: float, tasks_per_s: float, nodes: int, retention_s: float) -> Demand:
    """What is needed of everything. `retention_s`: for how long tasks have been kept, at most."""
    hot = {key: us * tasks_per_s / US for key, us in costs.hot_us_per_task.items()}
    for key, us in costs.hot_us_per_node_s.items():
        hot[key] = hot.get(key, 0.0) + us * nodes / US
    node_us = costs.node_us_per_task * tasks_per_s + costs.node_us_per_device_s * devices
    redis_us = costs.redis_us_per_task * tasks_per_s + costs.redis_us_per_device_s * devices
    return Demand(
        node_processors=(node_us + costs.node_us_per_node_s * nodes) / US,
        redis_processors=(redis_us + costs.redis_us_per_node_s * nodes) / US,
        node_bytes=costs.node_bytes * nodes + costs.node_bytes_per_device * devices,
        redis_bytes=costs.redis_bytes_per_device * devices + costs.redis_bytes_per_task * tasks_per_s * retention_s,
        redis_net_bytes_s=costs.redis_net_bytes_per_task * tasks_per_s,
        client_bytes_s=costs.client_bytes_per_task * tasks_per_s + costs.client_bytes_per_device_s * devices,
        hot=hot,
    )


def plan(costs: Costs, assumed: Assumptions, *, devices: float, tasks_per_s: float) -> Plan:
    """The fewest nodes and shards that carry it. Raises ValueError if a node is full of itself."""
    spare = assumed.utilisation - costs.node_us_per_node_s / US
    if spare <= 0:
        raise ValueError("a node has no time left beside its own housekeeping")
    load = (costs.node_us_per_task * tasks_per_s + costs.node_us_per_device_s * devices) / US
    nodes, nodes_for = _most(
        (FEWEST_NODES, "losing one"),
        (math.ceil(load / spare), "processors"),
        (math.ceil(devices / assumed.connections_per_node), "sockets"),
    )
    needed = demand(costs, devices=devices, tasks_per_s=tasks_per_s, nodes=nodes, retention_s=assumed.retention_s)
    shards, shards_for = _most(
        (1, "being there"),
        (math.ceil(needed.redis_processors / assumed.utilisation), "processors"),
        (math.ceil(needed.redis_bytes / assumed.redis_bytes_per_shard), "memory"),
    )
    hot_key, hot = max(needed.hot.items(), key=lambda item: item[1], default=("", 0.0))
    return Plan(nodes, nodes_for, shards, shards_for, hot_key, hot, needed)


def _most(*wanted: tuple[int, str]) -> tuple[int, str]:
    """The largest; of equals the first."""
    return max(wanted, key=lambda one: one[0])


def saturation(costs: Costs, assumed: Assumptions) -> list[Saturation]:
    """What is full first, as tasks come more often: two nodes and one Redis to begin with."""
    full = assumed.utilisation * US
    found = [
        Saturation("two nodes' processors", 2 * full / costs.node_us_per_task, "nodes"),
        Saturation("one Redis server's processor", full / costs.redis_us_per_task, "shards"),
        Saturation(
            "one Redis server's memory",
            assumed.redis_bytes_per_shard / (costs.redis_bytes_per_task * assumed.retention_s),
            "shards, or a shorter `result_ttl_s`",
        ),
    ]
    found += [
        Saturation(f"`{key}`, on whatever shard it is", full / us, "none but a change of the design")
        for key, us in costs.hot_us_per_task.items()
        if us > 0
    ]
    return sorted(found, key=lambda one: one.tasks_per_s)
