"""The way to Redis: one place that sends commands, bounds them, and names what went wrong.

Commands issued in the same turn of the event loop travel as one pipeline, so that a hundred concurrent requests cost
a few round trips. Guarantees: commands awaited one after another run in that order; concurrent ones in no particular
order. Every call is bounded in time (`timeout_s`) and in number (`MAX_WAITING`); when Redis is away each call raises
`StateUnavailable` within that time, and the next call after Redis is back succeeds by itself.

URLs: `redis://`, `rediss://` (TLS), `unix://`, and `embedded://`, which keeps everything in this process
(package fakeredis; one node, for trials and tests).
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio as aioredis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    DataError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from shared_state.errors import StateError, StateUnavailable

__all__ = ["Connection"]

log = logging.getLogger(__name__)

Args = tuple[str | bytes | int | float, ...]
Observer = Callable[[float, bool], None]

MAX_WAITING = 10_000
MAX_PIPELINES = 8
MAX_BATCH = 500


class _Script:
    __slots__ = ("sha", "source")

    def __init__(self, name: str) -> None:
        self.source = (files("shared_state.scripts") / f"{name}.lua").read_bytes()
        # Redis names a script by the SHA-1 of its text; nothing is kept secret by it.
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


class Connection:
    """A bounded, pipelining, self-healing connection to one Redis.

    `observer(seconds, failed)` is called after every pipeline, for metrics. No I/O happens before the first call.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0, observer: Observer | None = None) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self._observer = observer
        self._client = _client_for(url, timeout_s)
        self._scripts: dict[str, _Script] = {}
        self._waiting: list[tuple[Args, asyncio.Future[Any]]] = []
        self._pipelines: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._closed = False

    # -- calls -----------------------------------------------------------------------------------------------------
    def command(self, *args: str | bytes | int | float) -> Awaitable[Any]:
        """Send one command; awaiting gives its reply in redis-py's shape.

        Raises StateUnavailable or StateError. Cancelling the awaiter is safe: the command may or may not have run.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(StateUnavailable("the connection to Redis is closed"))
        elif len(self._waiting) >= MAX_WAITING:
            future.set_exception(StateUnavailable("too many requests are waiting for Redis"))
        else:
            self._waiting.append((args, future))
            self._schedule()
        return future

    def script(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | int | float] = ()) -> Awaitable[Any]:
        """Run `scripts/<name>.lua`. All `keys` must share a slot. Raises as `command` does."""
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = _Script(name)
        return self.command("EVALSHA", script.sha, len(keys), *keys, *args)

    async def ping(self) -> None:
        """Raise StateUnavailable unless Redis answers within `timeout_s`."""
        await self.command("PING")

    def pubsub(self) -> PubSub:
        """A subscription of its own connection, for the bus only."""
        return self._client.pubsub()

    async def close(self) -> None:
        """Finish what is under way (within `timeout_s`), then release the sockets. Safe to call twice."""
        self._closed = True
        if self._pipelines:
            await asyncio.wait(self._pipelines, timeout=self.timeout_s)
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(StateUnavailable("the connection to Redis is closed"))
        self._waiting.clear()
        await self._client.aclose()

    # -- the pipeline of a turn ----------------------------------------------------------------------------------
    def _schedule(self) -> None:
        if not self._scheduled and len(self._pipelines) < MAX_PIPELINES:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        if not self._waiting:
            return
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._pipelines.add(task)
        task.add_done_callback(self._sent)
        if self._waiting:
            self._schedule()

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._pipelines.discard(task)
        if self._waiting:
            self._schedule()

    async def _run(self, batch: list[tuple[Args, asyncio.Future[Any]]]) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        replies = await self._replies([args for args, _ in batch])
        if self._observer is not None:
            self._observer(loop.time() - started, any(isinstance(r, StateUnavailable) for r in replies))
        for (_, future), reply in zip(batch, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply if isinstance(reply, StateError) else _translate(reply))
                # Of several calls that fail together the caller may look at one only: that is no loss to report.
                future.exception()
            else:
                future.set_result(reply)

    async def _replies(self, commands: list[Args]) -> list[Any]:
        """A reply or an error for each command, whatever happens: those who wait must be told."""
        failure: StateError
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._execute(commands)
        except (DataError, ValueError):
            # One of them cannot be written, and nothing was sent: each by itself, so that only that one fails.
            if len(commands) > 1:
                return [(await self._replies([command]))[0] for command in commands]
            failure = StateError("a value cannot be written to Redis")
        except (RedisError, OSError, TimeoutError) as exc:
            failure = _translate(exc)
        except RuntimeError:
            # What uvloop raises for a write to a socket that was cut a moment ago. redis-py does not know it for a
            # broken connection, and would hand the same socket out again.
            failure = StateUnavailable("Redis cannot be reached")
            await self._client.connection_pool.disconnect(inuse_connections=False)
        except asyncio.CancelledError:
            failure = StateUnavailable("the connection to Redis is closed")
        except Exception:
            log.exception("a pipeline broke")
            failure = StateError("the call to Redis broke")
        return [failure] * len(commands)

    async def _execute(self, commands: list[Args]) -> list[Any]:
        replies = await self._pipeline(commands)
        lost = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if lost:
            # A script flush, a restart or a failover: load again what these calls need, and repeat only them. A
            # call that was answered NOSCRIPT has not run.
            by_sha = {script.sha: script.source for script in self._scripts.values()}
            shas = {commands[i][1] for i in lost}
            await self._pipeline([("SCRIPT", "LOAD", by_sha[str(sha)]) for sha in shas])
            for i, reply in zip(lost, await self._pipeline([commands[i] for i in lost]), strict=True):
                replies[i] = reply
        return replies

    async def _pipeline(self, commands: list[Args]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for args in commands:
            pipeline.execute_command(*args)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies


def _client_for(url: str, timeout_s: float) -> aioredis.Redis:
    parts = urlsplit(url)
    if parts.scheme == "embedded":
        return _embedded(parts.netloc or "default")
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError(
            f"redis_url: scheme {parts.scheme!r} is not supported; use redis://, rediss://, unix:// or embedded://"
        )
    # One retry, on a broken connection only: pooled sockets are stale after Redis restarts. A call that timed out
    # may have run, and is not repeated. Scripts are safe to repeat: each is keyed by an id that it checks.
    retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    client: aioredis.Redis = aioredis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(timeout_s, 2.0),
        retry=retry,
        max_connections=MAX_PIPELINES + 4,
        protocol=2,
    )
    return client


_embedded_servers: dict[str, Any] = {}


def _embedded(name: str) -> aioredis.Redis:
    try:
        import fakeredis  # noqa: PLC0415 - an optional extra, needed for this URL only
    except ImportError:
        raise ValueError(
            "redis_url: embedded:// needs the extra 'embedded': pip install 'aip-cluster[embedded]'"
        ) from None
    server = _embedded_servers.setdefault(name, fakeredis.FakeServer())
    client: aioredis.Redis = fakeredis.FakeAsyncRedis(server=server, protocol=2)
    return client


# Most specific first: redis-py derives several of these from ConnectionError and ResponseError.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (AuthenticationError, "Redis refuses the credentials"),
    (AuthorizationError, "Redis refuses the credentials"),
    (NoPermissionError, "the Redis user lacks a permission"),
    (BusyLoadingError, "Redis is loading its data"),
    (ReadOnlyError, "Redis is a read-only replica now"),
    (OutOfMemoryError, "Redis is out of memory"),
    (MasterDownError, "the Redis primary is down"),
    (ClusterDownError, "the Redis cluster is down"),
    (TryAgainError, "Redis is moving the key"),
    (RedisTimeoutError, "Redis did not answer in time"),
    (TimeoutError, "Redis did not answer in time"),
    (RedisConnectionError, "Redis cannot be reached"),
    (OSError, "Redis cannot be reached"),
)


def _translate(exc: BaseException) -> StateError:
    if isinstance(exc, RedisConnectionError) and isinstance(exc.__context__, AuthenticationError | ResponseError):
        # What a server answers to the hello of a connection comes wrapped.
        exc = exc.__context__
    for kind, reason in _REASONS:
        if isinstance(exc, kind):
            return StateUnavailable(reason)
    if isinstance(exc, ResponseError) and str(exc).startswith(("WRONGPASS", "NOAUTH", "invalid username-password")):
        return StateUnavailable("Redis refuses the credentials")
    if isinstance(exc, ResponseError) and str(exc).startswith(("OOM", "MISCONF", "NOREPLICAS")):
        return StateUnavailable(f"Redis refuses writes ({str(exc).split(maxsplit=1)[0]})")
    log.error("Redis answered with an error", extra={"error": str(exc)[:300]})
    return StateError("Redis answered with an error")
