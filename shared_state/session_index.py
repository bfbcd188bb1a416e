"""The index of the cluster's newest sessions, in order of time: written behind, many at a time.

It is one key that every dispatch of every node adds to, so a node sends what came in one turn of its loop in one call,
and nobody waits for it. Sessions do not need it to live, only to be listed: a node that dies in that moment, or finds
Redis away, leaves its last sessions out of the list; each is still found by its id, its task's name, and its device.
Bounded, here and in Redis.
"""

import asyncio
import logging
from functools import partial
from typing import Any

from shared_state.keys import Keys
from shared_state.redis.connection import Connection

__all__ = ["SessionIndex"]

log = logging.getLogger(__name__)

INDEX_BOUND = 100_000
BATCH = 1_000


class SessionIndex:
    """A buffer before the index. `add` begins a flush by itself; `close` writes what is left."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._redis = connection
        self._key = keys.sessions()
        self._waiting: list[str] = []
        self._life_ms = 0
        self._soon: asyncio.Handle | None = None
        self._writing: set[asyncio.Future[Any]] = set()

    def add(self, place: str, life_ms: int) -> None:
        """List a session for as long as it lives. Never waits."""
        self._waiting.append(place)
        self._life_ms = max(self._life_ms, life_ms)
        if len(self._waiting) >= BATCH:
            self._begin()
        elif self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._begin)

    async def remove(self, place: str) -> None:
        """Take a session off the list. Raises StateUnavailable; safe to repeat."""
        await self.flush()
        await self._redis.command("ZREM", self._key, place)

    async def flush(self) -> None:
        """Write what waits. Never raises for Redis."""
        self._begin()
        if self._writing:
            await asyncio.wait(self._writing)

    async def close(self) -> None:
        """Write what waits, once."""
        await self.flush()

    def _begin(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if not self._waiting:
            return
        places, self._waiting = self._waiting, []
        arguments: list[Any] = [INDEX_BOUND, self._life_ms, *places]
        # A call is under way once it is made: nothing has to wait for it but what becomes of it.
        writing = asyncio.ensure_future(self._redis.script("index_add", [self._key], arguments))
        self._writing.add(writing)
        writing.add_done_callback(partial(self._written, len(places)))

    def _written(self, count: int, writing: "asyncio.Future[Any]") -> None:
        self._writing.discard(writing)
        if not writing.cancelled() and (exc := writing.exception()) is not None:
            log.warning("cannot add sessions to the list of sessions", extra={"count": count, "reason": str(exc)})
