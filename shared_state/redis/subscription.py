"""One channel heard on one socket of its own, until the socket breaks or the server says that it is over.

Messages are handed on where they are read, in the order of arrival. A subscription never reconnects by itself: whoever
listens must know of every gap. Not even an unbroken socket proves that anything would arrive (see `shared_state.bus`,
which asks by probes).
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from shared_state.redis.wire import INCOMPLETE, pack, take_over

__all__ = ["OnMessage", "SocketSubscription", "Subscription"]

OnMessage = Callable[[bytes], None]
CLOSED = "the subscription was closed"


class Subscribed(Protocol):
    """Whoever gave the socket out."""

    address: str


class Subscription(ABC):
    """`server` is where it listens. Made by `Route.subscribe`; `close` is its owner's duty.

    `over` is done once nothing can arrive any more, and says why: the socket broke, or the server ended the
    subscription (a slot of a Cluster that moves takes its channels along, with no other word to those who listen).
    """

    def __init__(self, server: Subscribed, channel: str) -> None:
        self.server = server
        self.channel = channel
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @abstractmethod
    def listen(self, on_message: OnMessage) -> None:
        """Hand on every message from now on, beginning with those that are here already; to be called once.

        `on_message` must neither block nor raise.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the socket at once; nothing is handed on afterwards. Safe to repeat."""

    def _end(self, why: str) -> None:
        if not self.over.done():
            self.over.set_result(why)


class SocketSubscription(Subscription, asyncio.Protocol):
    """A subscription to a real server."""

    def __init__(self, socket: AbstractConnection, server: Subscribed, channel: str, *, sharded: bool) -> None:
        super().__init__(server, channel)
        self._socket = socket
        self._command = "SSUBSCRIBE" if sharded else "SUBSCRIBE"
        self._transport: asyncio.Transport | None = None
        self._reader: Any = None
        self._stands: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_message: OnMessage | None = None
        # What arrives before anybody listens: between two turns of the loop.
        self._early: list[bytes] = []

    async def open(self) -> None:
        """Connect and subscribe; returns once the server has said so. Raises redis-py's errors and OSError."""
        try:
            self._transport, self._reader = await take_over(self._socket, self)
            self._transport.write(pack([(self._command, self.channel)]))
            await self._stands
        except BaseException:
            await self.close()
            raise

    def listen(self, on_message: OnMessage) -> None:
        early, self._early = self._early, []
        for message in early:
            on_message(message)
        self._on_message = on_message

    async def close(self) -> None:
        self._break(RedisConnectionError(CLOSED), CLOSED)

    # -- what the event loop tells -------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while not self.over.done() and (reply := self._reader.gets()) is not INCOMPLETE:
                self._take(reply)
        except (RedisError, hiredis.HiredisError) as exc:
            self._break(exc, f"the subscription broke ({type(exc).__name__})")

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        why = f"the subscription broke ({type(exc).__name__ if exc else 'closed by the server'})"
        self._break(RedisConnectionError(why), why)

    def _take(self, reply: Any) -> None:
        if not isinstance(reply, list) or len(reply) < 3:
            if isinstance(reply, RedisError):
                raise reply
            raise RedisConnectionError("unexpected answer to SUBSCRIBE")
        kind = reply[0]
        if kind in {b"message", b"smessage"}:
            if self._on_message is None:
                self._early.append(reply[2])
            else:
                self._on_message(reply[2])
        elif kind in {b"unsubscribe", b"sunsubscribe"}:
            ended = "the server ended the subscription"
            self._break(RedisConnectionError(ended), ended)
        elif kind == self._command.lower().encode() and not self._stands.done():
            self._stands.set_result(None)

    def _break(self, exc: Exception, why: str) -> None:
        """The end of this socket, whatever was the reason."""
        if not self._stands.done():
            self._stands.set_exception(exc)
            # Whoever opens it may have been cancelled.
            self._stands.exception()
        if self._transport is not None:
            self._transport.abort()
        self._socket._close()  # type: ignore[no-untyped-call]
        self._end(why)
