"""Requests on this node that wait for the end of a session.

Woken by the bus, never by polling. A wake-up may be lost while the bus is away, so its return wakes everybody, and
each looks again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Waiter", "Waiters"]


class Waiter:
    """One request's place; `wait` may be called again after it returned True."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Let the waiter look again."""
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """True when woken, False when `timeout_s` has passed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Waiters:
    """All waiters of the node, by session."""

    def __init__(self) -> None:
        self._by_session: dict[str, set[Waiter]] = {}
        self.stopping = False
        # Nobody is held any longer, though the node may stay.
        self.letting_go = False

    @contextmanager
    def wait_for(self, session_id: str) -> Iterator[Waiter]:
        """A place among those who wait for `session_id`."""
        waiter = Waiter()
        self._by_session.setdefault(session_id, set()).add(waiter)
        try:
            yield waiter
        finally:
            waiters = self._by_session[session_id]
            waiters.discard(waiter)
            if not waiters:
                del self._by_session[session_id]

    def wake(self, session_id: str) -> None:
        """The session has ended."""
        for waiter in self._by_session.get(session_id, ()):
            waiter.wake()

    def wake_all(self) -> None:
        """Wake-ups may have been missed: everybody looks again."""
        for session_id in list(self._by_session):
            self.wake(session_id)

    def let_go(self) -> None:
        """The node is being emptied: requests are answered with what there is."""
        self.letting_go = True
        self.wake_all()

    def take_again(self) -> None:
        """The node stays: requests may wait again."""
        self.letting_go = self.stopping

    def stop(self) -> None:
        """The node is going: nobody waits any longer."""
        self.stopping = True
        self.let_go()
