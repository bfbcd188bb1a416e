"""The way to Redis: one place that sends commands, bounds them, and names what went wrong.

Commands issued in the same turn of the event loop travel as one pipeline (in a Cluster: one per server), so that a
hundred concurrent requests cost a few round trips. Guarantees: commands awaited one after another run in that order;
concurrent ones in no particular order. Every call is bounded in time (`timeout_s`, and half of it again where calls
queue) and in number (`MAX_WAITING`); when Redis is away, full, loading or failing over, each call raises
`StateUnavailable` within that time, and the next call after Redis is back succeeds by itself.

What a Redis acknowledges it may still lose in a failover, since replicas follow behind. `durable` calls are answered
only after `min_replicas` replicas hold them, too; that makes such a loss rare, not impossible.

URLs: see `shared_state.redis.url`.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from shared_state.redis import Args, Attempt, Replicas, Subscription, route_for
from shared_state.redis.errors import translate
from shared_state.redis.lua import script_source
from shared_state.redis.pipeline import CLOSED, MAX_PIPELINES, MAX_WAITING, Observer, Pipeline

__all__ = ["MAX_WAITING", "Connection", "Observer", "OnSaid"]

# Per server: pipelines of ordinary calls, of durable ones, and a few sockets that are being opened or closed.
MAX_SOCKETS = 2 * MAX_PIPELINES + 4

Arg = str | bytes | int | float
OnSaid = Callable[[str, int], None]


class _Script:
    __slots__ = ("sha", "source")

    def __init__(self, name: str) -> None:
        self.source = script_source(name)
        # Redis names a script by the SHA-1 of its text; nothing is kept secret by it.
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


class Connection:
    """A bounded, pipelining, self-healing connection to one Redis, whatever it is made of.

    `observer(seconds, failed)` is called after every pipeline, `on_said(kind, receivers)` after every frame to a node,
    for metrics. No I/O happens before the first call.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 5.0,
        min_replicas: int = 0,
        replica_wait_ms: int = 500,
        observer: Observer | None = None,
        on_said: OnSaid | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.on_said = on_said
        self._observer = observer
        self._route = route_for(url, timeout_s=timeout_s, max_sockets=MAX_SOCKETS)
        # Whether one server holds all keys, and a script may touch any; in a Cluster those of one slot.
        self.one_server = self._route.one_server
        self._replicas = Replicas(min_replicas, replica_wait_ms) if min_replicas else None
        self._scripts: dict[str, _Script] = {}
        self._sources: dict[str | bytes | int | float, bytes] = {}
        self._lanes: dict[tuple[str, bool], Pipeline] = {}
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many calls are not on their way yet; at most `MAX_WAITING` of them to each server."""
        return sum([lane.waiting for lane in self._lanes.values()])

    # -- calls -----------------------------------------------------------------------------------------------------
    def command(self, *args: Arg, durable: bool = False) -> Awaitable[Any]:
        """Send one command; awaiting gives its reply in redis-py's shape.

        With `durable`, `min_replicas` replicas must hold what it wrote, or StateUnavailable is raised although it was
        written. Raises StateUnavailable or StateError. Cancelling the awaiter is safe: the command may or may not have
        run.
        """
        place = self._route.lane(args), durable and self._replicas is not None
        lane = self._lanes.get(place) or self._new_lane(*place)
        return lane.refuse(CLOSED) if self._closed else lane.put(args)

    def script(
        self, name: str, keys: Sequence[str], args: Sequence[Arg] = (), *, durable: bool = False
    ) -> Awaitable[Any]:
        """Run `scripts/<name>.lua`. All `keys` must share a slot. `durable` and errors as with `command`."""
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = _Script(name)
            self._sources[script.sha] = script.source
        return self.command("EVALSHA", script.sha, len(keys), *keys, *args, durable=durable)

    async def publish(self, channel: str, message: bytes) -> int:
        """Say `message` on a channel. Returns how many subscribers the server that took it has. Raises as `command`."""
        return int(await self.command(*self._route.publish_command(channel, message)))

    async def ping(self) -> None:
        """Raise StateUnavailable unless Redis answers within `timeout_s`."""
        await self.command("PING")

    async def ask_each_server(self, *args: Arg) -> list[Any]:
        """The reply to one command of every server that takes writes; an error where one gave none.

        Raises StateUnavailable if they cannot be found.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                servers = await self._route.servers()
                return [(await server.pipeline([args]))[0] for server in servers]
        except (RedisError, OSError, TimeoutError, RuntimeError) as exc:
            failure = translate(exc)
        raise failure

    # -- channels ----------------------------------------------------------------------------------------------------
    async def subscribe(self, channel: str) -> Subscription:
        """A subscription that stands, on a socket of its own; the caller closes it. Raises StateUnavailable."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._route.subscribe(channel)
        except (RedisError, OSError, TimeoutError, RuntimeError) as exc:
            failure = translate(exc)
        raise failure

    async def serves(self, subscription: Subscription) -> bool:
        """Whether what is published now can reach `subscription`: false once another server took over its channel.

        Raises StateUnavailable while nobody knows.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._route.serves(subscription)
        except (RedisError, OSError, TimeoutError, RuntimeError) as exc:
            failure = translate(exc)
        raise failure

    async def close(self) -> None:
        """Finish what is under way (within `timeout_s`), then release the sockets. Safe to call twice."""
        self._closed = True
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))
        await self._route.close()

    # -- lanes ---------------------------------------------------------------------------------------------------------
    def _new_lane(self, name: str, durable: bool) -> Pipeline:
        replicas = self._replicas if durable else None

        async def execute(commands: list[Args], attempt: Attempt | None) -> list[Any]:
            return await self._execute(name, commands, replicas, attempt)

        # Replicas are waited for with care.
        lane = self._lanes[name, durable] = Pipeline(
            self._route,
            name,
            execute,
            at_once=replicas is None,
            timeout_s=self.timeout_s,
            observer=self._observer,
        )
        return lane

    async def _execute(
        self, lane: str, commands: list[Args], replicas: Replicas | None, attempt: Attempt | None
    ) -> list[Any]:
        replies = await self._route.execute(lane, commands, replicas, attempt)
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            # A script flush, a restart or a failover: repeat these calls, and only them, with the text of their
            # scripts, which also loads it again wherever they run. A call that was answered NOSCRIPT has not run.
            again = [("EVAL", self._sources[commands[i][1]], *commands[i][2:]) for i in unknown]
            for i, reply in zip(unknown, await self._route.execute(lane, again, replicas, None), strict=True):
                replies[i] = reply
        return replies
