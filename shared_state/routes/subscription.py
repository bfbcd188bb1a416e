"""One channel heard on one socket of its own, until the socket breaks or the server says that it is over.

It never reconnects by itself: whoever listens must know of every gap. Not even an unbroken socket proves that anything
would arrive (see `shared_state.bus`, which asks by probes).
"""

import asyncio
from typing import Any, Protocol

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from shared_state.errors import StateUnavailable

__all__ = ["Subscription"]

LOOK_EVERY_S = 1.0
CLOSE_S = 0.2


class Subscribed(Protocol):
    """Whoever gave the socket out."""

    address: str


class Subscription:
    """`server` is where it listens. Made by `Route.subscribe`; `close` is its owner's duty."""

    def __init__(self, socket: AbstractConnection, server: Subscribed, channel: str, *, sharded: bool) -> None:
        self.server = server
        self._socket = socket
        self.channel = channel
        self._sharded = sharded

    async def open(self) -> None:
        """Connect and subscribe; returns once the server has said so. Raises redis-py's errors and OSError."""
        try:
            await self._socket.connect()  # type: ignore[no-untyped-call]
            command = "SSUBSCRIBE" if self._sharded else "SUBSCRIBE"
            await self._socket.send_command(command, self.channel, check_health=False)
            reply: Any = await self._socket.read_response()
            if not isinstance(reply, list) or reply[0] != command.lower().encode():
                raise RedisConnectionError("the subscription was answered with something else")
        except BaseException:
            await self.close()
            raise

    async def next_message(self) -> bytes:
        """The next message, however long it takes. Cancel safe.

        Raises StateUnavailable when the socket broke, or when the server ended the subscription (a slot of a Cluster
        that moves takes its channels along, with no other word to those who listen).
        """
        while True:
            try:
                reply = self._at_hand() or await self._socket.read_response(
                    timeout=LOOK_EVERY_S, disconnect_on_error=False, push_request=True
                )
            except (RedisError, OSError, TimeoutError, RuntimeError) as exc:
                # RuntimeError is what uvloop raises for a socket that was cut a moment ago.
                failure = StateUnavailable(f"the subscription broke ({type(exc).__name__})")
                break
            if (task := asyncio.current_task()) is not None and task.cancelling():
                # `asyncio.wait_for` of Python 3.11, which the embedded backend uses, can lose a cancellation:
                # whoever cancelled would wait for ever. The message is lost with it, as it would have been otherwise.
                raise asyncio.CancelledError
            if reply is None:
                continue
            kind = reply[0]
            if kind in {b"message", b"smessage"}:
                message: bytes = reply[2]
                return message
            if kind in {b"unsubscribe", b"sunsubscribe"}:
                failure = StateUnavailable("the server ended the subscription")
                break
        raise failure

    def _at_hand(self) -> Any:
        """A message that was read together with the one before; None if there is none. No time limit is set for it."""
        reader: Any = getattr(self._socket._parser, "_reader", None)
        if reader is None or not reader.has_data():
            return None
        try:
            reply = reader.gets()
            # Less than a whole message is an object of redis-py's own.
            return reply if isinstance(reply, list) else None
        except hiredis.HiredisError as exc:
            failure = RedisConnectionError(str(exc))
        raise failure

    async def close(self) -> None:
        """Close the socket at once. Safe to repeat; never raises but for a cancellation."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._socket.disconnect(nowait=True)
        except (RedisError, OSError, TimeoutError, RuntimeError):
            pass
