"""The sockets to one Redis server, and the one thing done on them: commands out in one write, their replies in.

redis-py opens a socket, logs in, speaks TLS, and knows the server's errors; hiredis writes and reads the protocol. What
is left out is redis-py's way of running a pipeline: it spends most of its time on bookkeeping of each command and each
reply (a timeout, a task, a measurement). Here a batch is one write, and a turn of the loop for as many replies as came
with one read.

A socket serves one batch at a time. One on which anything failed (broken, cancelled, an answer that nobody awaits any
more) is closed, never used again: a reply that comes late must not answer another call. Nothing here has a time limit
of its own but opening a socket: the caller cancels what takes longer than it may.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import hiredis
import redis.asyncio as aioredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, MaxConnectionsError, RedisError

__all__ = ["Args", "Sockets", "pack"]

Args = tuple[str | bytes | int | float, ...]


def pack(commands: Sequence[Args]) -> bytes:
    """The commands as they travel. Raises DataError or ValueError if a value cannot be written."""
    try:
        # mypy: the stubs of hiredis describe the command as a tuple of one.
        return b"".join([hiredis.pack_command(args) for args in commands])  # type: ignore[arg-type]
    except TypeError as exc:
        failure = DataError(str(exc))
    raise failure


class Sockets:
    """At most `limit` sockets to the server of `client`. No I/O before the first `exchange`.

    With `repeats`, what met a broken socket is sent once more on a new one: idle sockets are stale after a restart of
    Redis.
    """

    def __init__(self, client: aioredis.Redis, *, limit: int, repeats: bool) -> None:
        self._client = client
        self._limit = limit
        self._repeats = repeats
        self._open: set[AbstractConnection] = set()
        self._idle: list[AbstractConnection] = []
        self._closed = False

    async def exchange(self, packed: bytes, count: int) -> list[Any]:
        """Write `packed`, read `count` replies; error replies are exceptions among them.

        Raises redis-py's errors or OSError when no socket could be opened or it broke; any of the commands may have run
        then. Cancel safe: the socket is closed.
        """
        socket = await self._take()
        try:
            return await self._round_trip(socket, packed, count)
        except RedisConnectionError:
            if not self._repeats or self._closed:
                raise
        return await self._round_trip(await self._new(), packed, count)

    async def drop_idle(self) -> None:
        """Close those that nobody uses now."""
        idle, self._idle = self._idle, []
        self._open.difference_update(idle)
        # One by one, which waits for nothing: tasks that are cancelled before they begin would leave sockets open.
        for socket in idle:
            await _close(socket)

    async def close(self) -> None:
        """Close all of them, also under a call; there will be no others."""
        self._closed = True
        sockets, self._open, self._idle = self._open, set(), []
        await asyncio.gather(*(_close(socket, nowait=False) for socket in sockets))

    # -- one round trip ------------------------------------------------------------------------------------------------
    async def _round_trip(self, socket: AbstractConnection, packed: bytes, count: int) -> list[Any]:
        try:
            replies = await _exchange(socket, packed, count)
        except BaseException:
            await self._discard(socket)
            raise
        if self._closed:
            await self._discard(socket)
        else:
            self._idle.append(socket)
        return replies

    async def _take(self) -> AbstractConnection:
        while self._idle:
            socket = self._idle.pop()
            try:
                # Data that nobody asked for, or the end of the stream.
                if socket.is_connected and not await socket.can_read():
                    return socket
            except (RedisError, OSError):
                pass
            except BaseException:
                await self._discard(socket)
                raise
            await self._discard(socket)
        return await self._new()

    async def _new(self) -> AbstractConnection:
        if self._closed:
            raise RedisConnectionError("the sockets to this server are closed")
        if len(self._open) >= self._limit:
            raise MaxConnectionsError("too many sockets to one server")
        socket: AbstractConnection = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._open.add(socket)
        try:
            await socket.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await self._discard(socket)
            raise
        return socket

    async def _discard(self, socket: AbstractConnection) -> None:
        self._open.discard(socket)
        await _close(socket)


async def _exchange(socket: AbstractConnection, packed: bytes, count: int) -> list[Any]:
    writer = socket._writer
    # Without the timeout, the task and the error handling of `socket.read_response` around each reply.
    read: Callable[[], Awaitable[Any]] = socket._parser.read_response  # type: ignore[attr-defined]
    if writer is None:
        raise RedisConnectionError("the socket was closed")
    try:
        # Not drained: nothing else is written before all replies are here, and the caller holds the bytes anyway.
        writer.write(packed)
    except RuntimeError as exc:
        # uvloop's word for a socket that was cut a moment ago.
        raise RedisConnectionError(str(exc)) from None
    try:
        return [await read() for _ in range(count)]
    except OSError as exc:
        raise RedisConnectionError(str(exc)) from None


async def _close(socket: AbstractConnection, *, nowait: bool = True) -> None:
    with contextlib.suppress(RedisError, OSError, RuntimeError):
        await socket.disconnect(nowait=nowait)
