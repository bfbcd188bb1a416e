"""When the sessions of this node have had their time: one timer for all of them, where each would have one of its own.

Nearly every session ends long before its deadline. Here that costs two entries in dictionaries. A deadline is met at
most `TICK_S` late, as long as `due` is called that often while there is any session.
"""

import math

from node.sessions.live_session import LiveSession

__all__ = ["TICK_S", "Deadlines"]

TICK_S = 0.02


class Deadlines:
    """The sessions by the tick at which they are due. Pure: times come in, seconds by a monotonic clock."""

    def __init__(self) -> None:
        self._due: dict[int, dict[str, LiveSession]] = {}
        # Up to this tick no session is left.
        self._past = 0

    def __bool__(self) -> bool:
        return bool(self._due)

    def add(self, session: LiveSession, now_s: float, left_s: float) -> None:
        """A session that has so much time left."""
        if not self._due:
            self._past = int(now_s / TICK_S)
        tick = session.due_tick = max(math.ceil((now_s + left_s) / TICK_S), self._past + 1)
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = {}
        due[session.session_id] = session

    def remove(self, session: LiveSession) -> None:
        """A session that is over. Safe to repeat."""
        due = self._due.get(session.due_tick)
        if due is not None and due.get(session.session_id) is session:
            del due[session.session_id]
            if not due:
                del self._due[session.due_tick]

    def due(self, now_s: float) -> list[LiveSession]:
        """The sessions whose time has passed since the last call; they are here no more."""
        past, self._past = self._past, int(now_s / TICK_S)
        if self._past - past > len(self._due):
            # The loop was held up for long: look at what there is, not at every tick that has passed.
            ticks = sorted(tick for tick in self._due if tick <= self._past)
        else:
            ticks = [tick for tick in range(past + 1, self._past + 1) if tick in self._due]
        return [session for tick in ticks for session in self._due.pop(tick).values()]
