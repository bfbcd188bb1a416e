"""The sockets to one Redis server, and the one thing done on them: commands out in one write, their replies in.

redis-py opens a socket: it speaks TLS, logs in, looks who answers, and knows the server's errors. Then its transport is
taken over: hiredis reads what arrives where it arrives, without streams, tasks and timers in between, which cost more
than all the rest of a round trip.

A socket serves one batch at a time. One on which anything failed (broken, cancelled, an answer that nobody awaits any
more) is closed, never used again: a reply that comes late must not answer another call. Nothing here has a time limit
of its own but opening a socket: the caller ends what takes longer than it may.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
import redis.asyncio as aioredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, InvalidResponse, MaxConnectionsError, RedisError

__all__ = ["INCOMPLETE", "Args", "Done", "Line", "Outcome", "Sockets", "pack", "reader_of", "take_over"]

Args = tuple[str | bytes | int | float, ...]
# All replies (error replies are exceptions among them), or what broke the socket.
Outcome = list[Any] | Exception
Done = Callable[[Outcome], None]

# What the reader answers while the rest of a reply has not come.
INCOMPLETE = object()
CLOSED = "the sockets to this server are closed"


def pack(commands: Sequence[Args]) -> bytes:
    """The commands as they travel. Raises DataError or ValueError if a value cannot be written."""
    try:
        # mypy: the stubs of hiredis describe the command as a tuple of one.
        return b"".join([hiredis.pack_command(args) for args in commands])  # type: ignore[arg-type]
    except TypeError as exc:
        failure = DataError(str(exc))
    raise failure


async def take_over(
    socket: AbstractConnection, protocol: asyncio.Protocol
) -> tuple[asyncio.Transport, "hiredis.Reader"]:
    """Connect `socket`, and let `protocol` hear from now on what arrives; returns the transport, and what reads it.

    Raises redis-py's errors and OSError. Whoever is cancelled in here closes the socket.
    """
    await socket.connect()  # type: ignore[no-untyped-call]
    writer = socket._writer
    # Nothing may be left behind in the stream that is put aside; nor may its end have passed unheard.
    if writer is None or writer.transport.is_closing() or await socket.can_read():
        raise RedisConnectionError("the socket was closed, or the server sent unexpected data")
    transport = cast("asyncio.Transport", writer.transport)
    transport.set_protocol(protocol)
    return transport, reader_of(socket)


def reader_of(socket: AbstractConnection) -> "hiredis.Reader":
    """What makes replies of bytes, with the errors that redis-py has for them."""
    return hiredis.Reader(
        protocolError=InvalidResponse, replyError=socket._parser.parse_error, notEnoughData=INCOMPLETE
    )


class Line(asyncio.Protocol):
    """One socket. `on_free` is called whenever it can serve again, `on_end` once it never will."""

    __slots__ = (
        "_count",
        "_done",
        "_on_end",
        "_on_free",
        "_reader",
        "_replies",
        "_socket",
        "_transport",
        "ended",
        "lost",
    )

    def __init__(
        self, socket: AbstractConnection, on_free: "Callable[[Line], None]", on_end: "Callable[[Line], None]"
    ) -> None:
        self._socket = socket
        self._on_free = on_free
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._reader: Any = None
        self._done: Done | None = None
        self._count = 0
        self._replies: list[Any] = []
        self.ended = False
        self.lost = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Connect. Raises redis-py's errors and OSError, and is ended then."""
        try:
            self._transport, self._reader = await take_over(self._socket, self)
        except BaseException:
            self.end(RedisConnectionError(CLOSED))
            raise
        if self.ended:
            # Closed by somebody who did not wait for it.
            self._transport.abort()
            self._socket._close()  # type: ignore[no-untyped-call]
            raise RedisConnectionError(CLOSED)

    def send(self, packed: bytes, count: int, done: Done) -> None:
        """Write a batch, while no other is under way; `done` is called once, with `count` replies or with what broke.

        Raises RuntimeError, and has sent nothing, if the socket was cut a moment ago (uvloop's word for it).
        """
        if self._transport is None or self._transport.is_closing():
            raise RuntimeError("the socket was closed")
        # Not held back by a full buffer: nothing else is written before all replies are here, and the caller holds the
        # bytes anyway.
        self._transport.write(packed)
        self._done, self._count = done, count

    def end(self, exc: Exception) -> None:
        """Close the socket at once; `exc` is the outcome of what is under way. Safe to repeat."""
        if self.ended:
            return
        self.ended = True
        self._on_end(self)
        if self._transport is None:
            self.lost.set_result(None)
        else:
            self._transport.abort()
        self._socket._close()  # type: ignore[no-untyped-call]
        done, self._done = self._done, None
        if done is not None:
            done(exc)

    # -- what the event loop tells -------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        done = self._done
        try:
            if done is None:
                raise RedisConnectionError("the server sent unexpected data")
            if not self._read(data):
                return
        except (RedisError, hiredis.HiredisError) as exc:
            self.end(exc)
            return
        self._done = None
        replies, self._replies = self._replies, []
        self._on_free(self)
        done(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        self.end(RedisConnectionError(f"the socket broke ({type(exc).__name__ if exc else 'closed by the server'})"))

    def eof_received(self) -> None:
        self.end(RedisConnectionError("the server closed the socket"))

    def _read(self, data: bytes) -> bool:
        """Whether all replies are here now. Raises what makes this socket useless."""
        self._reader.feed(data)
        replies, gets = self._replies, self._reader.gets
        for _ in range(self._count - len(replies)):
            reply = gets()
            if reply is INCOMPLETE:
                return False
            if isinstance(reply, RedisConnectionError):
                raise reply
            replies.append(reply)
        if self._reader.has_data():
            raise RedisConnectionError("the server sent more replies than requests")
        return True


class Sockets:
    """At most `limit` sockets to the server of `client`. No I/O before the first `exchange`.

    With `repeats`, what met a broken socket is sent once more on a new one: idle sockets are stale after a restart of
    Redis.
    """

    def __init__(self, client: aioredis.Redis, *, limit: int, repeats: bool) -> None:
        self._client = client
        self._limit = limit
        self._repeats = repeats
        self._open: set[Line] = set()
        self._idle: list[Line] = []
        self._closed = False

    def send(self, packed: bytes, count: int, done: Done) -> Line | None:
        """Write on an idle socket at once; `done` will be told the outcome. None, and nothing was sent, if none is."""
        while self._idle:
            line = self._idle.pop()
            try:
                line.send(packed, count, done)
            except RuntimeError as exc:
                line.end(exc)
            else:
                return line
        return None

    async def exchange(self, packed: bytes, count: int) -> list[Any]:
        """Write `packed`, read `count` replies; error replies are exceptions among them.

        Raises redis-py's errors or OSError when no socket could be opened or it broke; any of the commands may have run
        then. Cancel safe: the socket is closed.
        """
        answer = asyncio.get_running_loop().create_future()
        line = self.send(packed, count, _into(answer)) or await self._send_on_new(packed, count, answer)
        try:
            return await _answer(answer, line)
        except RedisConnectionError as exc:
            failure = exc
        return await self.repeat(packed, count, failure)

    async def repeat(self, packed: bytes, count: int, failure: Exception) -> list[Any]:
        """As `exchange`, on a new socket, for what met a broken one: `failure` is raised where that is not wanted."""
        if not isinstance(failure, RedisConnectionError) or not self._repeats or self._closed:
            raise failure
        answer = asyncio.get_running_loop().create_future()
        return await _answer(answer, await self._send_on_new(packed, count, answer))

    def drop_idle(self) -> None:
        """Close those that nobody uses now."""
        for line in self._idle.copy():
            line.end(RedisConnectionError(CLOSED))

    async def close(self) -> None:
        """Close all of them, also under a call; there will be no others."""
        self._closed = True
        lines = list(self._open)
        for line in lines:
            line.end(RedisConnectionError(CLOSED))
        if lines:
            await asyncio.wait([line.lost for line in lines])

    async def _send_on_new(self, packed: bytes, count: int, answer: "asyncio.Future[list[Any]]") -> Line:
        if self._closed:
            raise RedisConnectionError(CLOSED)
        if len(self._open) >= self._limit:
            raise MaxConnectionsError("too many sockets to one server")
        socket: AbstractConnection = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        line = Line(socket, self._idle.append, self._forget)
        self._open.add(line)
        await line.open()
        try:
            line.send(packed, count, _into(answer))
        except RuntimeError as exc:
            line.end(exc)
            raise RedisConnectionError(str(exc)) from None
        return line

    def _forget(self, line: Line) -> None:
        self._open.discard(line)
        if line in self._idle:
            self._idle.remove(line)


def _into(answer: "asyncio.Future[list[Any]]") -> Done:
    def done(outcome: Outcome) -> None:
        if answer.done():
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    return done


async def _answer(answer: "asyncio.Future[list[Any]]", line: Line) -> list[Any]:
    try:
        return await answer
    except asyncio.CancelledError:
        # Not if the replies came just before: then the socket serves somebody else by now.
        if answer.cancelled():
            line.end(RedisConnectionError("given up"))
        raise
