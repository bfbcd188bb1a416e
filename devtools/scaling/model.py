"""The model: demand is linear in devices and nodes, and nearly so in tasks, which get cheaper as they come together.

What a task costs between two rates at which that was measured is read off the straight line through both, both axes
being logarithmic; beyond all of them it costs what it costs there. The rate is that of a pair of nodes: a task crosses
two.

Two things do not follow from adding machines: a key that is one slot stays on one shard, and retention multiplies the
memory of results. Both come out of `plan` as what they are: a bound, and a number of shards.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from devtools.scaling.costs import Costs, Task

__all__ = ["Assumptions", "Demand", "Plan", "Saturation", "carried", "demand", "plan", "saturation", "task_cost"]

US = 1e6
FEWEST_NODES = 2
BISECTIONS = 60
# A key that has less than this of a task fills no shard before everything else does.
TRIFLE = 0.001


@dataclass(frozen=True)
class Assumptions:
    """What nobody measured: how full a processor may be, and what machines and settings there are.

    A node is one process and uses one processor; so does a Redis server. `connections_per_node` leaves room below the
    setting `max_connections` for the devices of a node that died; `retention_s` is the setting `result_ttl_s`.
    """

    utilisation: float = 0.6
    connections_per_node: int = 15_000
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


def task_cost(costs: Costs, per_s: float) -> Task:
    """What a task costs where a pair of nodes gets so many a second."""
    rate = min(max(per_s, costs.tasks[0].per_s), costs.full.per_s)
    low, high = next(pair for pair in itertools.pairwise(costs.tasks) if rate <= pair[1].per_s)
    at = math.log(rate / low.per_s) / math.log(high.per_s / low.per_s) if high.per_s > low.per_s else 1.0

    def between(first: float, last: float) -> float:
        return math.exp(math.log(first) * (1 - at) + math.log(last) * at)

    return Task(per_s, between(low.node_us, high.node_us), between(low.redis_us, high.redis_us))


def demand(costs: Costs, *, devices: float, tasks_per_s: float, nodes: int, retention_s: float) -> Demand:
    """What is needed of everything. `retention_s`: for how long tasks have been kept, at most."""
    task = task_cost(costs, tasks_per_s * 2 / nodes)
    hot = {key: share * task.redis_us * tasks_per_s / US for key, share in costs.hot_share_of_task.items()}
    for key, us in costs.hot_us_per_node_s.items():
        hot[key] = hot.get(key, 0.0) + us * nodes / US
    node_us = task.node_us * tasks_per_s + costs.node_us_per_device_s * devices
    redis_us = task.redis_us * tasks_per_s + costs.redis_us_per_device_s * devices
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
    if costs.node_us_per_node_s / US >= assumed.utilisation:
        raise ValueError("a node has no time left beside its own housekeeping")

    def needed_by(nodes: int) -> Demand:
        return demand(costs, devices=devices, tasks_per_s=tasks_per_s, nodes=nodes, retention_s=assumed.retention_s)

    nodes, nodes_for = _most(
        (FEWEST_NODES, "losing one"), (math.ceil(devices / assumed.connections_per_node), "sockets")
    )
    # One by one: with more nodes a task costs more, since fewer of them meet.
    while needed_by(nodes).node_processors > assumed.utilisation * nodes:
        nodes, nodes_for = nodes + 1, "processors"
    needed = needed_by(nodes)
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


def carried(costs: Costs, of_task: Callable[[Task], float], budget_us: float) -> float:
    """How many tasks a second two nodes may get until what each asks, in µs, is `budget_us` together."""
    low, high = 0.0, budget_us / of_task(costs.full)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if middle * of_task(task_cost(costs, middle)) <= budget_us:
            low = middle
        else:
            high = middle
    return low


def saturation(costs: Costs, assumed: Assumptions) -> list[Saturation]:
    """What is full first, as tasks come more often: two nodes and one Redis to begin with."""
    full = assumed.utilisation * US
    kept = assumed.redis_bytes_per_shard / (costs.redis_bytes_per_task * assumed.retention_s)
    found = [
        Saturation("two nodes' processors", carried(costs, lambda task: task.node_us, 2 * full), "nodes"),
        Saturation("one Redis server's processor", carried(costs, lambda task: task.redis_us, full), "shards"),
        Saturation("one Redis server's memory", kept, "shards, or a shorter `result_ttl_s`"),
    ]
    for key, share in costs.hot_share_of_task.items():
        if share < TRIFLE:
            continue
        # Whatever it is that fills it comes at its full rate.
        rate = full / (share * costs.full.redis_us)
        found.append(Saturation(f"`{key}`, on whatever shard it is", rate, "none but a change of the design"))
    return sorted(found, key=lambda one: one.tasks_per_s)
