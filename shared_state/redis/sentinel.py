"""The route to whichever server the sentinels say is the primary.

They are asked before the first command, again after anything that a failover may have caused (a broken socket, a call
that took too long, a READONLY), and while commands flow every `LOOK_EVERY_S` besides: after a failover the old primary
may take writes for some seconds, all of which are lost when the sentinels get to demote it. All are asked at once; of
the answers of a majority (or of those that came within `ASK_S`) that with the highest configuration epoch counts, since
a sentinel that was cut off names the primary of before.

A command that a replica refused has not run, and is sent on to the new primary in the same call; so is, once, a
pipeline whose socket broke (scripts are safe to repeat). If no sentinel answers, the server of before stays in use.
"""

import asyncio
import logging
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, ReadOnlyError, RedisError

from shared_state.redis.base import Route
from shared_state.redis.server import Args, Attempt, Replicas, Server, open_server
from shared_state.redis.subscription import Subscription
from shared_state.redis.url import Address, Target

__all__ = ["SentinelRoute"]

log = logging.getLogger(__name__)

ASK_S = 1.0
LOOK_EVERY_S = 0.25
# Whoever has not looked for so long (frozen, or idle) has perhaps missed a failover, and looks first.
STALE_S = 2.0
# Much sooner than sentinels depose a server that does not answer: a call may be sent late in its silence.
SUSPICIOUS_S = 0.25


class SentinelRoute(Route):
    """Every command goes to the primary of the service."""

    suspicious_after_s = SUSPICIOUS_S

    def __init__(self, target: Target, *, timeout_s: float, max_sockets: int) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._max_sockets = max_sockets
        self._sentinels = [_sentinel(address, target.sentinel_options) for address in target.addresses]
        self._server: Server | None = None
        self._in_doubt = False
        self._asking = asyncio.Lock()
        self._asked_at = 0.0
        self._look: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def server(self, lane: str) -> Server | None:  # noqa: ARG002
        now = asyncio.get_running_loop().time()
        if self._server is None or self._in_doubt or now > self._asked_at + STALE_S:
            return None
        self._look_if_due(now)
        return self._server

    async def execute(
        self, lane: str, commands: list[Args], replicas: Replicas | None, attempt: Attempt | None
    ) -> list[Any]:
        server = attempt.server if attempt else await self._primary()
        started = asyncio.get_running_loop().time() - (attempt.seconds if attempt else 0.0)
        try:
            replies = await server.pipeline(commands, replicas, attempt)
        except (RedisConnectionError, ReadOnlyError, OSError, RuntimeError):
            self.doubt(lane)
            return await (await self._primary()).pipeline(commands, replicas)
        if asyncio.get_running_loop().time() - started > SUSPICIOUS_S:
            # A server that was frozen or paused for so long may have been deposed meanwhile, and not know it: what it
            # takes then is thrown away. Its word counts only if it is still the primary.
            self._in_doubt = True
            if await self._primary() is not server:
                raise RedisConnectionError("another server became the primary")
        refused = [i for i, reply in enumerate(replies) if isinstance(reply, ReadOnlyError | MasterDownError)]
        if refused:
            self.doubt(lane)
            successor = await self._primary()
            if successor is not server:
                again = await successor.pipeline([commands[i] for i in refused], replicas)
                for i, reply in zip(refused, again, strict=True):
                    replies[i] = reply
        return replies

    def doubt(self, lane: str) -> None:  # noqa: ARG002
        self._in_doubt = True
        if self._server is not None:
            self._server.drop_idle()

    def publish_command(self, channel: str, message: bytes) -> Args:
        return ("PUBLISH", channel, message)

    async def subscribe(self, channel: str) -> Subscription:
        try:
            return await (await self._primary()).subscribe(channel, sharded=False)
        except (RedisError, OSError):
            self._in_doubt = True
            raise

    async def serves(self, subscription: Subscription) -> bool:
        return subscription.server is await self._primary()

    async def servers(self) -> list[Server]:
        return [await self._primary()]

    async def close(self) -> None:
        if self._look is not None:
            self._look.cancel()
        if self._server is not None:
            await self._server.close()
        await asyncio.gather(*self._closing, *(s.aclose() for s in self._sentinels), return_exceptions=True)

    # -- who it is -----------------------------------------------------------------------------------------------------
    async def _primary(self) -> Server:
        now = asyncio.get_running_loop().time()
        if self._server is None or self._in_doubt or now > self._asked_at + STALE_S:
            async with self._asking:
                if self._server is None or self._in_doubt or now > self._asked_at + STALE_S:
                    await self._find()
        else:
            self._look_if_due(now)
        if self._server is None:
            raise RedisConnectionError("no sentinel knows the primary")
        return self._server

    def _look_if_due(self, now: float) -> None:
        if self._look is None and now > self._asked_at + LOOK_EVERY_S:
            self._look = asyncio.create_task(self._find(all_of_them=True), name="sentinel-look")
            self._look.add_done_callback(self._looked)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._look = None
        if not task.cancelled() and task.exception() is not None:
            log.error("cannot ask the sentinels for the primary", exc_info=task.exception())

    async def _find(self, *, all_of_them: bool = False) -> None:
        """Follow whom the sentinels name (with `all_of_them`, not only a majority); nobody's word changes nothing."""
        address = await self._ask_all(all_of_them=all_of_them)
        self._asked_at = asyncio.get_running_loop().time()
        if address is None:
            return
        self._in_doubt = False
        if self._server is None or self._server.address != f"{address[0]}:{address[1]}":
            self._follow(address)

    def _follow(self, address: Address) -> None:
        if self._server is not None:
            log.warning("another Redis server became the primary")
            task = asyncio.create_task(self._server.close(), name="old-primary-close")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._server = open_server(
            self._target.options,
            timeout_s=self._timeout_s,
            max_sockets=self._max_sockets,
            host=address[0],
            port=address[1],
            primary_only=True,
        )

    async def _ask_all(self, *, all_of_them: bool) -> Address | None:
        tasks = {asyncio.create_task(self._ask(sentinel)) for sentinel in self._sentinels}
        found: list[tuple[int, Address]] = []
        try:
            async with asyncio.timeout(ASK_S):
                for done in asyncio.as_completed(tasks):
                    answer = await done
                    if answer is not None:
                        found.append(answer)
                    if len(found) * 2 > len(tasks) and not all_of_them:
                        break
        except TimeoutError:
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return max(found)[1] if found else None

    async def _ask(self, sentinel: aioredis.Redis) -> tuple[int, Address] | None:
        try:
            pipeline = sentinel.pipeline(transaction=False)
            pipeline.execute_command("SENTINEL", "MASTER", self._target.service)
            # Not the address of the reply above: a sentinel that leads a failover raises the epoch when it has promoted
            # a replica, and goes on naming the old primary there until all replicas follow, a second or more.
            pipeline.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._target.service)
            described, address = await pipeline.execute()
            facts = dict(zip(described[::2], described[1::2], strict=True))
            return int(facts[b"config-epoch"]), (address[0].decode(), int(address[1]))
        except (RedisError, OSError, RuntimeError, KeyError, ValueError, TypeError):
            return None


def _sentinel(address: Address, options: dict[str, Any]) -> aioredis.Redis:
    host, port = address
    return aioredis.Redis(
        host=host,
        port=port,
        **options,
        socket_timeout=ASK_S,
        socket_connect_timeout=ASK_S,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        max_connections=2,
        protocol=2,
    )
