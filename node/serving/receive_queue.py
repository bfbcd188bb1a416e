"""What a socket waits with: for its next message, and for room to write.

asyncio's Queue and Event do the same for any number of tasks that wait, and have room for them ready: 760 bytes
for each way to wait, 3.8 kilobytes a socket. Here one task reads, and as good as nobody ever waits to write.
Both live in one event loop. Bounds are the owner's: a socket stops reading when a message has come.
"""

import asyncio
from typing import Generic, TypeVar

__all__ = ["Gate", "ReceiveQueue"]

_T = TypeVar("_T")


class ReceiveQueue(Generic[_T]):
    """Messages for one task, in order."""

    __slots__ = ("_loop", "_messages", "_reader")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._messages: list[_T] = []
        self._reader: asyncio.Future[None] | None = None

    def empty(self) -> bool:
        """Whether nothing is there."""
        return not self._messages

    def awaited(self) -> bool:
        """Whether nothing is there, and somebody waits for it."""
        return self._reader is not None and not self._reader.done() and not self._messages

    def put_nowait(self, message: _T) -> None:
        """Leave a message. Never waits."""
        self._messages.append(message)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def take(self) -> _T:
        """The oldest message. Raises IndexError if there is none."""
        return self._messages.pop(0)

    def filled(self) -> asyncio.Future[None]:
        """Done with the next message that comes; for one task at a time, which may be cancelled."""
        self._reader = self._loop.create_future()
        return self._reader


class Gate:
    """Open at first; whoever comes while it is closed waits. As asyncio.Event, which is made only when it is closed."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None

    def is_set(self) -> bool:
        """Whether it is open."""
        return self._event is None

    def clear(self) -> None:
        """Close it. Safe to repeat."""
        self._event = self._event or asyncio.Event()

    def set(self) -> None:
        """Open it: everybody passes who waits. Safe to repeat."""
        event, self._event = self._event, None
        if event is not None:
            event.set()

    async def wait(self) -> None:
        """Wait until it is open. Cancelling is safe."""
        while self._event is not None:
            await self._event.wait()
