"""Memory for what is large and still arriving, shared by all sockets of a node.

Whoever wants some asks once, for all that it may come to need, and waits, in order, until that is free. So nobody who
has a part waits for another, and a large request is not overtaken for ever by small ones.
"""

from collections import deque
from collections.abc import Callable

__all__ = ["Allowance", "Waiting"]


class Waiting:
    """A place in the queue."""

    __slots__ = ("_allowance", "granted", "size")

    def __init__(self, allowance: "Allowance", size: int, granted: Callable[[], None]) -> None:
        self._allowance = allowance
        self.size = size
        self.granted = granted

    def cancel(self) -> None:
        """Wait no longer; `granted` will not be called."""
        self._allowance.leave(self)


class Allowance:
    """`total` bytes. Lives in one event loop, and never waits itself."""

    def __init__(self, total: int) -> None:
        self._total = total
        self.used = 0
        self._waiting: deque[Waiting] = deque()

    def take(self, size: int, granted: Callable[[], None]) -> Waiting | None:
        """Take `size` bytes. If they are not free: a place in the queue, and `granted` is called once they are taken.

        Raises ValueError if there are never so many.
        """
        if size > self._total:
            raise ValueError(f"{size} bytes are more than {self._total}")
        if not self._waiting and self.used + size <= self._total:
            self.used += size
            return None
        waiting = Waiting(self, size, granted)
        self._waiting.append(waiting)
        return waiting

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.used -= size
        self._serve()

    def leave(self, waiting: Waiting) -> None:
        """Give up a place in the queue. Safe to repeat."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            self._serve()

    def _serve(self) -> None:
        while self._waiting and self.used + self._waiting[0].size <= self._total:
            first = self._waiting.popleft()
            self.used += first.size
            first.granted()
