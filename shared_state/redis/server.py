"""One Redis server, and the sockets to it.

A socket on which a call broke, was cancelled or took too long is closed, never used again (see `routes.wire`).
`drop_idle` closes those that merely might be dead, too: after a partition every idle socket is, and each would cost
another timeout.

Commands are sent in one of two ways. `send` writes them at once, if a socket is idle, and tells the outcome as it is;
`pipeline` opens sockets, repeats and waits, and takes up from there where `send` met something that is not a reply.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoPermissionError, ReadOnlyError, RedisError

from shared_state.redis.errors import NotReplicatedError
from shared_state.redis.subscription import SocketSubscription, Subscription
from shared_state.redis.wire import Args, Done, Line, Outcome, Sockets, pack

__all__ = ["Args", "Attempt", "Done", "Line", "Outcome", "Replicas", "Server", "open_server", "shaped"]

CONNECT_S = 2.0
# Which replies redis-py gives another shape, by command. A client that never connects knows them.
_SHAPES = dict(aioredis.Redis(protocol=2).response_callbacks)


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas must hold what was written, and how long to wait for them to say so."""

    count: int
    wait_ms: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of commands that were sent by `Server.send`, and how long it took."""

    server: "Server"
    outcome: Outcome
    seconds: float


def shaped(args: Args, reply: Any) -> Any:
    """The reply to a command in redis-py's shape; an error as it is, and one for what fits into no shape."""
    if args[0] not in _SHAPES or isinstance(reply, Exception):
        return reply
    try:
        return _SHAPES[args[0]](reply)
    except (TypeError, ValueError, LookupError, AttributeError) as exc:
        return InvalidResponse(f"{args[0]!s} was answered with something else ({type(exc).__name__})")


class Server:
    """`address` is for telling servers apart, and for the log: `host:port`, or a path."""

    def __init__(self, client: aioredis.Redis, address: str, sockets: Sockets) -> None:
        self.address = address
        self._client = client
        self._sockets = sockets

    def send(self, commands: Sequence[Args], done: Done) -> Line | None:
        """Write all commands on an idle socket at once; `done` is told what came of it, replies in Redis' shape.

        None, and nothing was sent, if no socket is idle. Raises DataError or ValueError, and sends nothing, when a
        value cannot be written. The caller bounds the time, by ending the line.
        """
        return self._sockets.send(pack(commands), len(commands), done)

    async def pipeline(
        self, commands: Sequence[Args], replicas: Replicas | None = None, attempt: Attempt | None = None
    ) -> list[Any]:
        """All commands in one round trip: a reply (in redis-py's shape) or an error reply for each.

        With `replicas`, a last command waits for them on the same socket. An `attempt` (without replicas) is what came
        of them so far: replies that only want shaping, or a break to get over. Raises redis-py's errors or OSError when
        the socket broke; any of the commands may have run then. Raises DataError or ValueError, and sends nothing, when
        a value cannot be written. Its caller bounds the time.
        """
        if replicas is None:
            return await self._run(commands, attempt)
        replies = await self._run([*commands, ("WAIT", replicas.count, replicas.wait_ms)], None)
        return _as_replicated(replies[:-1], replies[-1], replicas)

    async def _run(self, commands: Sequence[Args], attempt: Attempt | None) -> list[Any]:
        if attempt is None:
            replies = await self._sockets.exchange(pack(commands), len(commands))
        elif isinstance(attempt.outcome, Exception):
            replies = await self._sockets.repeat(pack(commands), len(commands), attempt.outcome)
        else:
            replies = attempt.outcome
        return list(map(shaped, commands, replies))

    async def subscribe(self, channel: str, *, sharded: bool) -> Subscription:
        """A subscription that stands, on a socket outside the pool."""
        socket: AbstractConnection = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        subscription = SocketSubscription(socket, self, channel, sharded=sharded)
        await subscription.open()
        return subscription

    def drop_idle(self) -> None:
        """Close the sockets that nobody uses now, at once: a dead line is not waited for."""
        self._sockets.drop_idle()

    async def close(self) -> None:
        """Close every socket. Never raises but for a cancellation."""
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._sockets.close()
                await self._client.aclose()
        except (RedisError, OSError, TimeoutError, RuntimeError):
            pass


def open_server(
    options: dict[str, Any],
    *,
    timeout_s: float,
    max_sockets: int,
    host: str = "",
    port: int = 0,
    path: str = "",
    primary_only: bool = False,
) -> Server:
    """A server; no I/O yet. With `primary_only`, a socket to what turns out to be a replica is refused (ReadOnlyError),
    and one that broke is not opened again behind the caller's back: the primary may be another server by now."""
    # One retry, on a broken connection only: pooled sockets are stale after Redis restarts. A call that timed out
    # may have run, and is not repeated. Scripts are safe to repeat: each is keyed by an id that it checks.
    retry = Retry(NoBackoff(), 0 if primary_only else 1, supported_errors=(RedisConnectionError,))
    where: dict[str, Any] = {"unix_socket_path": path} if path else {"host": host, "port": port}
    client = aioredis.Redis(
        **where,
        **options,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(timeout_s, CONNECT_S),
        retry=retry,
        max_connections=max_sockets,
        protocol=2,
        redis_connect_func=_greet_primary if primary_only else None,
    )
    return Server(client, path or f"{host}:{port}", Sockets(client, limit=max_sockets, repeats=not primary_only))


async def _greet_primary(socket: AbstractConnection) -> None:
    await socket.on_connect()
    try:
        await socket.send_command("ROLE", check_health=False)
        reply: Any = await socket.read_response()
    except NoPermissionError:
        return  # then a write will tell
    if reply[0] != b"master":
        raise ReadOnlyError("the server is a replica now")


def _as_replicated(replies: list[Any], holders: Any, replicas: Replicas) -> list[Any]:
    if isinstance(holders, int) and holders >= replicas.count:
        return replies
    error = holders if isinstance(holders, Exception) else NotReplicatedError(f"{holders} replicas")
    return [reply if isinstance(reply, Exception) else error for reply in replies]
