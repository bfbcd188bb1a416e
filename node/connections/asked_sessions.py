"""The sessions that one client asked for over its socket: for which of them it waits, and which ends are out of date.

A client may use a session id of its own again. The end of an older session under that id must not be told as that of
the newer one, so each id is kept with the time at which its newest session was created. Bounded: the oldest ids are
forgotten, and nobody waits for their ends any more.
"""

import time
from collections import OrderedDict

__all__ = ["AskedSessions"]

BOUND = 1_000
# How long after its deadline an end may still come.
LATE_S = 5.0


class AskedSessions:
    """What one client asked for. Lives as long as its socket."""

    __slots__ = ("_created_ms", "_devices", "_waiting")

    def __init__(self) -> None:
        self._created_ms: OrderedDict[str, int] = OrderedDict()
        # Until when an end may come, by a monotonic clock.
        self._waiting: dict[str, float] = {}
        self._devices: OrderedDict[str, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many ends the client waits for. One whose session was lost, with a failover of Redis, never comes."""
        now = time.monotonic()
        return sum(until > now for until in self._waiting.values())

    def ask(self, session_id: str, created_ms: int, timeout_s: float) -> None:
        """The client asks for a session of that deadline; ends of older ones under its id are not told from now on."""
        self._created_ms[session_id] = created_ms
        self._created_ms.move_to_end(session_id)
        self._waiting[session_id] = time.monotonic() + timeout_s + LATE_S
        if len(self._created_ms) > BOUND:
            oldest, _ = self._created_ms.popitem(last=False)
            self._waiting.pop(oldest, None)

    def sent_to(self, device_id: str) -> None:
        """A task of the client was accepted for this device."""
        self._devices[device_id] = None
        self._devices.move_to_end(device_id)
        if len(self._devices) > BOUND:
            self._devices.popitem(last=False)

    def has_sent_to(self, device_id: str) -> bool:
        """Whether a task of the client was accepted for this device, over this socket."""
        return device_id in self._devices

    def answered(self, session_id: str) -> None:
        """The client was told that the session does not begin, or how it has ended. Safe to repeat."""
        self._waiting.pop(session_id, None)

    def take_end(self, session_id: str, created_ms: int) -> bool:
        """Whether an end is to be told: unless the client has asked for another session under the id since."""
        if self._created_ms.get(session_id, created_ms) != created_ms:
            return False
        self._waiting.pop(session_id, None)
        return True
