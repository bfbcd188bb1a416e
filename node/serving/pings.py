"""The pings of one socket: one each interval, and a time for the pong to each. Never sends anything itself."""

import asyncio
import os
from collections.abc import Callable

__all__ = ["Pings"]


class Pings:
    """Either a pong is awaited, or the next ping is: there is one timer. An `interval_s` of 0 means none are due."""

    __slots__ = ("_interval_s", "_payload", "_sent_at", "_timeout_s", "_timer")

    def __init__(self, interval_s: float, timeout_s: float) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._payload = b""
        self._sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def awaits_pong(self) -> bool:
        """Whether a ping was sent that no pong has come for."""
        return self._payload != b""

    def schedule(self, ping: Callable[[], None]) -> None:
        """Have `ping` called when the next one is due: an interval after the last one, or after now if none was."""
        self.stop()
        if self._interval_s > 0:
            loop = asyncio.get_running_loop()
            due_at = (self._sent_at or loop.time()) + self._interval_s
            self._timer = loop.call_at(max(loop.time(), due_at), ping)

    def begin(self, late: Callable[[], None]) -> bytes:
        """A ping is sent now. Returns its payload; `late` is called if its pong does not come in time."""
        self.stop()
        # Random, so that a pong to another ping, or to none, is not taken for its answer.
        self._payload = os.urandom(4)
        self._sent_at = asyncio.get_running_loop().time()
        self.wait_longer(late)
        return self._payload

    def wait_longer(self, late: Callable[[], None]) -> None:
        """Give the pong its time once more."""
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, late)

    def answered(self, payload: bytes) -> bool:
        """A pong has come. Returns whether it is the one awaited; the next ping is to be scheduled then."""
        if not self._payload or payload != self._payload:
            return False
        self.stop()
        return True

    def stop(self) -> None:
        """Nothing is due or awaited any more. Safe to repeat."""
        self._payload = b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
