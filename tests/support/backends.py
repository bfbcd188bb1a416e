"""States over a backend, each test under a prefix of its own; and the promise of `shared_state.keys` checked."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from shared_state import State
from shared_state.redis.connection import Connection

__all__ = ["Backend", "keys_under", "remove_keys", "without_life"]


@dataclass
class Backend:
    """Where the states of one test live. Every `state()` sees the same data, as nodes of one cluster do."""

    name: str
    url: str
    prefix: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:12]}")
    _states: list[State] = field(default_factory=list)

    def state(self, **settings: Any) -> State:
        """One more process' view of the cluster. Closed at the end of the test."""
        state = State(self.url, prefix=self.prefix, **settings)
        self._states.append(state)
        return state

    async def state_of_nodes(self, *node_ids: str) -> State:
        """A view of the cluster in which these nodes live; their leases outlast the test."""
        state = self.state(lease_ttl_s=60.0)
        for node_id in node_ids:
            await state.nodes.renew(node_id, {})
        return state

    async def close(self) -> None:
        """Close every state, and remove the keys. Fails if one of them would have stayed for ever."""
        for state in self._states:
            await state.close()
        connection = Connection(self.url)
        try:
            immortal = await without_life(connection, self.prefix)
            await remove_keys(connection, self.prefix)
        finally:
            await connection.close()
        assert immortal == [], "keys without a time to live"


async def without_life(connection: Connection, prefix: str) -> list[str]:
    """Keys under `prefix` that have no time to live."""
    keys = await keys_under(connection, prefix)
    lives = [(key, await connection.command("PTTL", key)) for key in keys]
    # -2: it lived out its time since it was listed.
    return [key.decode() for key, life_ms in lives if life_ms != -2 and life_ms <= 0]


async def remove_keys(connection: Connection, prefix: str) -> None:
    """Remove every key under `prefix`."""
    for key in await keys_under(connection, prefix):
        await connection.command("DEL", key)


async def keys_under(connection: Connection, prefix: str) -> list[bytes]:
    """Every key under `prefix`, sorted, on whatever server."""
    found: set[bytes] = set()
    for server in await connection._route.servers():
        cursor: bytes | int = 0
        while True:
            ((cursor, keys),) = await server.pipeline([("SCAN", cursor, "MATCH", f"{prefix}:*", "COUNT", 1000)])
            found.update(keys)
            if int(cursor) == 0:
                break
    return sorted(found)
