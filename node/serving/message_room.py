"""The memory that one socket has taken for its large messages: for the one on its way in, and for those being handled.

The memory itself is `node.serving.message_memory`'s, shared by all sockets. A message that has its memory must arrive
within a time that fits its size, since it keeps that memory from others.
"""

import asyncio
from collections.abc import Callable

from node.serving.message_memory import Allowance, Waiting

__all__ = ["LEAST_BYTES_PER_S", "MESSAGE_BASE_S", "MessageRoom"]

# Time for a large message to arrive: a while, and its size at a slow line's rate.
MESSAGE_BASE_S = 15.0
LEAST_BYTES_PER_S = 256 * 1024


class MessageRoom:
    """What one socket has of the node's memory for large messages. Never waits itself."""

    __slots__ = ("_arriving", "_handled", "_source", "_waiting", "deadline")

    def __init__(self, source: Allowance) -> None:
        self._source = source
        self._arriving = 0
        self._handled = 0
        self._waiting: Waiting | None = None
        # When the message that arrives is late; None if there is none that needs memory.
        self.deadline: asyncio.TimerHandle | None = None

    @property
    def is_handling(self) -> bool:
        """Whether the application has a large message in its hands."""
        return self._handled > 0

    def take(self, size: int, *, granted: Callable[[bool], None], late: Callable[[], None]) -> bool:
        """Take memory for the message that is on its way in. False if that has to wait.

        Then `granted` is called once waiting is over: with False if the memory is not this message's, since `move_to`
        has changed where it comes from. `late` is called if the message takes too long from then on.
        """
        source = self._source

        def has_come() -> None:
            self._waiting = None
            if source is self._source:
                self._arriving = size
            else:
                source.give(size)
            self.watch(MESSAGE_BASE_S + size / LEAST_BYTES_PER_S, late)
            granted(source is self._source)

        self._waiting = source.take(size, has_come)
        if self._waiting is not None:
            return False
        self._arriving = size
        self.watch(MESSAGE_BASE_S + size / LEAST_BYTES_PER_S, late)
        return True

    def watch(self, for_s: float, late: Callable[[], None]) -> None:
        """Have `late` called after that time, unless the message has come by then."""
        if self.deadline is not None:
            self.deadline.cancel()
        self.deadline = asyncio.get_running_loop().call_later(for_s, late)

    def arrived(self) -> None:
        """The message is whole: its memory is given back once the application has handled it."""
        self._handled += self._arriving
        self._arriving = 0
        self._unwatch()

    def handled(self) -> None:
        """The application is done with all that it was told."""
        size, self._handled = self._handled, 0
        if size:
            self._source.give(size)

    def give_up(self) -> None:
        """The message on its way in is not wanted any more. Safe to repeat."""
        self._unwatch()
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        size, self._arriving = self._arriving, 0
        if size:
            self._source.give(size)

    def move_to(self, source: Allowance) -> None:
        """From now on memory comes from here. What was taken elsewhere is given back."""
        self.handled()
        size, self._arriving = self._arriving, 0
        if size:
            self._source.give(size)
        self._source = source

    def _unwatch(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
