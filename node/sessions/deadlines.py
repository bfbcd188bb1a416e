"""When the sessions of this node have had their time: one timer for all of them, where each would have one of its own.

Nearly every session ends long before its deadline. Here that costs two entries in dictionaries; the loop wakes up
every `TICK_S` as long as there is any session. A deadline is met at most that much late.
"""

import asyncio
import math
import time
from collections.abc import Callable

from node.sessions.local_session import LocalSession

__all__ = ["TICK_S", "Deadlines"]

TICK_S = 0.02


class Deadlines:
    """The sessions by the tick at which they are due; `on_due` is called once for each that is still here then."""

    def __init__(self, on_due: Callable[[LocalSession], None]) -> None:
        self._on_due = on_due
        self._due: dict[int, dict[str, LocalSession]] = {}
        # Up to this tick nobody is here any more.
        self._past = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, session: LocalSession, left_s: float) -> None:
        """A session that has so much time left."""
        now = time.monotonic()
        if self._timer is None:
            self._past = int(now / TICK_S)
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._look)
        tick = session.due_tick = max(math.ceil((now + left_s) / TICK_S), self._past + 1)
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = {}
        due[session.session_id] = session

    def remove(self, session: LocalSession) -> None:
        """A session that is over. Safe to repeat."""
        due = self._due.get(session.due_tick)
        if due is not None:
            due.pop(session.session_id, None)
            if not due:
                del self._due[session.due_tick]

    def _look(self) -> None:
        past, self._past = self._past, int(time.monotonic() / TICK_S)
        for tick in range(past + 1, self._past + 1):
            for session in self._due.pop(tick, {}).values():
                self._on_due(session)
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._look) if self._due else None
