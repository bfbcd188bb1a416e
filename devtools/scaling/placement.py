"""Simulation: on which shard of a Redis Cluster the keys of a fleet lie, and how much more the busiest of them does.

The keys are those that the cluster builds (`shared_state.keys`), of as many devices and nodes as are asked about; slots
are dealt out in equal ranges, as `redis-cli --cluster create` does. Work is a Redis server's time by the key that a
command names, as measured; devices get equally many tasks, and names of tasks lie evenly.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from devtools.scaling.costs import Costs
from devtools.scaling.model import US, task_cost
from shared_state.keys import Keys

__all__ = ["Placed", "fewest_shards", "placed"]

KEYS = Keys()


@dataclass(frozen=True)
class Placed:
    """Processors of Redis, shard by shard. `tags`: devices on the shard that holds most of them, beside the average."""

    loads: Sequence[float]
    tags: float

    @property
    def busiest(self) -> float:
        """Of the shard that has most to do."""
        return max(self.loads)

    @property
    def average(self) -> float:
        """Of all."""
        return sum(self.loads) / len(self.loads)


@lru_cache(maxsize=8)
def _slots(devices: int) -> Counter[int]:
    """How many devices lie in each slot that one of them lies in."""
    return Counter(key_slot(KEYS.registration(f"device-{n}").encode()) for n in range(devices))


def _shard(slot: int, shards: int) -> int:
    return slot * shards // REDIS_CLUSTER_HASH_SLOTS


def placed(costs: Costs, *, devices: int, tasks_per_s: float, nodes: int, shards: int) -> Placed:
    """How the work of so many devices, tasks and nodes lies on so many shards."""
    of_tasks = task_cost(costs, tasks_per_s * 2 / nodes).redis_us * tasks_per_s / US
    by_name = of_tasks * costs.name_share_of_task
    by_device = of_tasks * (1 - costs.name_share_of_task - sum(costs.hot_share_of_task.values()))
    load = [by_name / shards] * shards
    fleet = [0] * shards
    for slot, count in _slots(devices).items():
        fleet[_shard(slot, shards)] += count
    for shard, count in enumerate(fleet):
        load[shard] += by_device * count / devices
    # A node's list of its clients is one slot a node.
    for node in range(nodes):
        slot = key_slot(KEYS.node_clients(f"node-{node}").encode())
        load[_shard(slot, shards)] += costs.redis_us_per_device_s * devices / nodes / US
    for kind in {*costs.hot_share_of_task, *costs.hot_us_per_node_s}:
        busy = costs.hot_share_of_task.get(kind, 0.0) * of_tasks + costs.hot_us_per_node_s.get(kind, 0.0) * nodes / US
        load[_shard(key_slot(kind.encode()), shards)] += busy
    return Placed(load, max(fleet) * shards / devices)


def fewest_shards(
    costs: Costs, utilisation: float, *, devices: int, tasks_per_s: float, nodes: int
) -> tuple[int, Placed]:
    """The fewest shards of which the busiest is no busier than `utilisation`, and how the work lies on them.

    Where a key of one slot is busier than that by itself no number of them helps: then eight times what all the work
    would need if it lay evenly.
    """

    def on(shards: int) -> Placed:
        return placed(costs, devices=devices, tasks_per_s=tasks_per_s, nodes=nodes, shards=shards)

    shards = least = max(1, math.ceil(on(1).busiest / utilisation))
    while (found := on(shards)).busiest > utilisation and shards < 8 * least:
        shards += 1
    return shards, found
