"""The cluster's own stream of events: who came, who went, what ended.

Events are facts for operators and for audits, not state: they are written behind, in batches, and a node that dies
loses those of its last moment. The stream is capped; when Redis is away events are dropped and counted.
"""

import asyncio
import logging
from collections import deque
from typing import Any

import orjson

from shared_state.errors import StateError
from shared_state.keys import Keys
from shared_state.redis.connection import Connection

__all__ = ["Events"]

log = logging.getLogger(__name__)

# Entries of the stream; each holds what one node noted within a moment, `BATCH` events at most.
STREAM_BOUND = 2_000
STREAM_LIFE_S = 86_400
BUFFER_BOUND = 10_000
FLUSH_EVERY_S = 0.1
BATCH = 32
# The field of an entry: a list in JSON, oldest first.
NOTED = b"events"


class Events:
    """A write-behind buffer before the stream. `start` owns one task, `close` ends it after a last flush."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._redis = connection
        self._key = keys.events()
        self._buffer: deque[dict[str, Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self.dropped = 0

    def append(self, event: str, **facts: Any) -> None:
        """Note an event; `facts` are values that JSON has. Never waits; the oldest is dropped when 10,000 wait."""
        if len(self._buffer) >= BUFFER_BOUND:
            self._buffer.popleft()
            self.dropped += 1
        self._buffer.append({"event": event, **facts})
        self._wake.set()

    def start(self) -> None:
        """Begin to write in the background."""
        self._task = asyncio.create_task(self._run(), name="events")

    async def close(self) -> None:
        """Write what waits, once, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._flush()

    async def tail(self, limit: int = 100) -> list[dict[str, Any]]:
        """The newest events, newest first; each carries `at_ms`."""
        reply = await self._redis.command("XREVRANGE", self._key, "+", "-", "COUNT", limit)
        found = [
            {"at_ms": int(entry_id.partition(b"-")[0]), **event}
            for entry_id, fields in reply
            for event in reversed(orjson.loads(fields.get(NOTED, b"[]")))
        ]
        return found[:limit]

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(FLUSH_EVERY_S)
            self._wake.clear()
            await self._flush()

    async def _flush(self) -> None:
        while self._buffer:
            batch = [self._buffer.popleft() for _ in range(min(BATCH, len(self._buffer)))]
            added = self._redis.command("XADD", self._key, "MAXLEN", "~", STREAM_BOUND, "*", NOTED, orjson.dumps(batch))
            kept = self._redis.command("EXPIRE", self._key, STREAM_LIFE_S)
            outcomes = await asyncio.gather(added, kept, return_exceptions=True)
            if isinstance(outcomes[0], StateError):
                self.dropped += len(batch)
                log.warning("events dropped", extra={"count": len(batch)})
                return
