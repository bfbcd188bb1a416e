"""How much of its memory Redis has used, so that what is new is refused before Redis refuses it.

Every two seconds each server that takes writes is asked (INFO memory). The fullest counts: a task needs several slots.
From `queue_share` of `maxmemory` on nothing is taken that waits or is stored for long; from `task_share` on no task.
What is under way goes on: see docs/REDIS.md. Where a server has no `maxmemory`, or may not be asked, nothing is refused
here. Between two looks as much may come as Redis takes in two seconds.
"""

import asyncio
import logging
from typing import Any

from shared_state.errors import StateError, StateFull
from shared_state.redis.connection import Connection

__all__ = ["Memory"]

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0


class Memory:
    """The memory of the Redis servers. `start` begins to watch, `close` ends it."""

    def __init__(self, connection: Connection, *, queue_share: float, task_share: float) -> None:
        self._redis = connection
        self._queue_share = queue_share
        self._task_share = task_share
        self._used_share = 0.0
        self._watching: asyncio.Task[None] | None = None

    @property
    def used_share(self) -> float:
        """Of `maxmemory`, by the last look, on the server where it is most; 0 where it has no bound."""
        return self._used_share

    def check(self, *, waits: bool) -> None:
        """Raises StateFull if nothing more may be stored. `waits`: a file, or a task that may wait for its device."""
        share = self._queue_share if waits else self._task_share
        if self._used_share >= share:
            raise StateFull(
                f"Redis is nearly full ({min(self._used_share, 1.0):.0%} of maxmemory); give it more memory, "
                "or wait until results have expired"
            )

    def start(self) -> None:
        """Watch, in the running loop."""
        self._watching = asyncio.create_task(self._watch(), name="redis-memory")

    async def close(self) -> None:
        """Watch no more. Safe to repeat."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None

    async def look(self) -> None:
        """Ask the servers now. Raises nothing of Redis."""
        try:
            infos = await self._redis.ask_each_server("INFO", "memory")
        except StateError:
            # What was known holds until they answer; while they do not, nothing is stored anyway.
            return
        self._used_share = max(map(_used_share, infos), default=0.0)

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("cannot read the memory use of Redis")
            await asyncio.sleep(LOOK_EVERY_S)


def _used_share(info: Any) -> float:
    """Of one server's reply; 0 where it has no bound, or may not be asked."""
    if isinstance(info, bytes):
        info = dict(line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line)
    if not isinstance(info, dict):
        return 0.0
    used, bound = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    return used / bound if bound else 0.0
