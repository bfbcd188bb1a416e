"""Which nodes are alive: leases by the clock of Redis.

A node renews its lease every `renew` and is void `lease_ttl_s` after the last renewal, whatever its own clock says. A
node that finds its lease gone was away too long (frozen, partitioned, or Redis lost its data) and must claim anew
what it holds. When Redis is away nobody's lease can be judged: callers get `StateUnavailable`.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from aip_cluster.protocol.ids import now_ms
from shared_state.clock import Clock
from shared_state.keys import Keys
from shared_state.redis.connection import Connection

__all__ = ["Lease", "NodeInfo", "Nodes"]

LEASES_LIFE_MS = 86_400_000
REAPER_LOCK_MS = 5_000


@dataclass(frozen=True, slots=True)
class Lease:
    """What a renewal found: `held` is False if the lease had ended (or never was); node ids alive and dead."""

    held: bool
    live: frozenset[str]
    dead: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A live node as it described itself at its last renewal."""

    node_id: str
    info: dict[str, Any]


class Nodes:
    """Leases of the cluster's nodes."""

    def __init__(self, connection: Connection, keys: Keys, clock: Clock, *, lease_ttl_s: float) -> None:
        self._redis = connection
        self._clock = clock
        self._keys = keys
        self.lease_ttl_s = lease_ttl_s

    async def renew(self, node_id: str, info: dict[str, Any]) -> Lease:
        """Hold the lease for another `lease_ttl_s`, and set the clock. Raises StateUnavailable; safe to repeat and to
        cancel.
        """
        asked_ms = now_ms()
        held, live, dead, redis_ms = await self._redis.script(
            "node_renew",
            [self._keys.leases(), self._keys.node_info(node_id)],
            [node_id, int(self.lease_ttl_s * 1000), orjson.dumps(info), LEASES_LIFE_MS],
        )
        self._clock.compare(redis_ms, asked_ms=asked_ms, answered_ms=now_ms())
        return Lease(bool(held), frozenset(n.decode() for n in live), tuple(n.decode() for n in dead))

    async def live(self) -> list[str]:
        """Ids of the nodes that hold a lease now."""
        return sorted(n.decode() for n in await self._redis.script("node_live", [self._keys.leases()]))

    async def lease_ends_ms(self, node_id: str) -> int | None:
        """When a node's lease ends, by the clock of Redis; None if it holds none. Each renewal moves it."""
        reply = await self._redis.command("ZSCORE", self._keys.leases(), node_id)
        return None if reply is None else int(float(reply))

    async def describe(self) -> list[NodeInfo]:
        """The live nodes with what they say of themselves."""
        ids = await self.live()
        if not ids:
            return []
        # One slot: all keys share the tag {nodes}.
        values = await self._redis.command("MGET", *(self._keys.node_info(n) for n in ids))
        return [NodeInfo(n, orjson.loads(v) if v else {}) for n, v in zip(ids, values, strict=True)]

    async def release(self, node_id: str) -> None:
        """Give the lease up; also how the reaper forgets a dead node. Safe to repeat."""
        first = self._redis.command("ZREM", self._keys.leases(), node_id)
        await self._redis.command("DEL", self._keys.node_info(node_id))
        await first

    async def try_reap(self, node_id: str) -> bool:
        """Become the one node that settles dead nodes, for 5 s at most. End it with `reaped`."""
        won = await self._redis.script("reaper_take", [self._keys.reaper()], [node_id, REAPER_LOCK_MS])
        return bool(won)

    async def reaped(self, node_id: str) -> None:
        """Let another node be the reaper, unless another is by now. Safe to repeat."""
        await self._redis.script("reaper_release", [self._keys.reaper()], [node_id])
