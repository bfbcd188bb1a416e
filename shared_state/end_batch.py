"""End many short sessions in one call.

Most sessions end before any step of them is stored, and REST started them. Such an end is three commands; a call for
each would cost more than the commands. So the ends of one turn of the event loop travel in one call. The script ends
each session by itself. It leaves a session to `Sessions.end` if steps are stored, if a client waits for it, or if it
has ended already. If the call fails, all its sessions are left. That is safe: an end has an id and may be repeated.

In a Redis Cluster a call holds the ends of one slot. It holds at most `MOST` ends, and about `FULL_BYTES` of results.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from shared_state.clock import Clock
from shared_state.errors import StateError
from shared_state.keys import Keys, tag_of_session
from shared_state.redis.connection import Connection
from shared_state.session_record import WORTH_CUTTING, Ending, end_json

__all__ = ["EndBatch"]

log = logging.getLogger(__name__)

# A script blocks Redis: this many ends take half a millisecond.
MOST = 128
# A call is sent once its results have this many bytes.
FULL_BYTES = 128 * 1024

# Called with True if the batch ended the session, else with False: the caller must use `Sessions.end`.
Done = Callable[[bool], None]


class _Waiting(NamedTuple):
    session_id: str
    client_id: str
    state: str
    end: bytes
    cut: bool
    done: Done


class EndBatch:
    """Ends sessions together. `put` schedules the call; `flush` waits for calls in progress."""

    def __init__(self, connection: Connection, keys: Keys, clock: Clock, *, result_ttl_s: int) -> None:
        self._redis = connection
        self._keys = keys
        self._clock = clock
        self._retention_ms = result_ttl_s * 1000
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        self._soon: asyncio.Handle | None = None
        self._writing: set[asyncio.Future[Any]] = set()

    def put(self, ending: Ending, *, deadline_ms: int, done: Done) -> None:
        """Add the end of a session that lives in its device's slot (`live_together`).

        Never waits and never raises for Redis; calls `done` with the outcome.
        """
        now = self._clock.now_ms()
        end = ending.end_id.encode() + b"\n" + end_json(ending, now_ms=now, ahead_ms=self._clock.ahead_ms)
        cut = deadline_ms > now + self._retention_ms // WORTH_CUTTING
        self._waiting.append(_Waiting(ending.session_id, ending.client_id, ending.state, end, cut, done))
        self._bytes += len(end)
        if len(self._waiting) >= MOST or self._bytes >= FULL_BYTES:
            self._begin()
        elif self._soon is None:
            self._loop = self._loop or asyncio.get_running_loop()
            self._soon = self._loop.call_soon(self._begin)

    async def flush(self) -> None:
        """Wait until each `done` was called. Never raises for Redis."""
        self._begin()
        if self._writing:
            await asyncio.wait(self._writing)

    def _begin(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if self._redis.one_server:
            self._write(waiting)
            return
        of_slots: dict[str, list[_Waiting]] = {}
        for one in waiting:
            of_slots.setdefault(tag_of_session(one.session_id), []).append(one)
        for together in of_slots.values():
            self._write(together)

    def _write(self, together: list[_Waiting]) -> None:
        if not together:
            return
        cut = sum([one.cut for one in together])
        if cut:
            together.sort(key=lambda one: not one.cut)
        keys: list[str] = []
        args: list[str | bytes | int | float] = [self._retention_ms, cut]
        session, active = self._keys.session, self._keys.active
        for one in together:
            keys += (session(one.session_id), active(one.client_id))
            args += one[0], one.state, one.end
        writing = asyncio.ensure_future(self._redis.script("session_ends", keys, args))
        self._writing.add(writing)
        writing.add_done_callback(partial(self._written, together))

    def _written(self, together: list[_Waiting], writing: "asyncio.Future[list[int]]") -> None:
        self._writing.discard(writing)
        exc = asyncio.CancelledError() if writing.cancelled() else writing.exception()
        if exc is not None:
            level = logging.DEBUG if isinstance(exc, StateError) else logging.ERROR
            log.log(
                level,
                "batch of ends failed; ending each session by itself",
                extra={"count": len(together), "reason": str(exc)},
            )
        left = range(1, len(together) + 1) if exc is not None else writing.result()
        for number, one in enumerate(together, 1):
            try:
                one.done(number not in left)
            except Exception:
                log.exception("the follow-up of an end failed", extra={"session_id": one.session_id})
