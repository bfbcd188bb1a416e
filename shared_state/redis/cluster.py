"""The routes into a Redis Cluster: to each command the server that holds its slot.

The map of slots is asked for before the first command, and again, by the next command, after anything that says it is
out of date: MOVED, CLUSTERDOWN, a server that breaks or is silent. MOVED and ASK are followed within the call, TRYAGAIN
is repeated for a moment (none of the three has run). What belongs to a server that does not answer fails alone: the
commands for the others travel in pipelines of their own (see `lane`).

Subscriptions are sharded (Redis 7 or later): a channel has a slot, and is heard from the server that holds it.
"""

import asyncio
import random
from collections import defaultdict
from typing import Any

from redis.exceptions import (
    AskError,
    ClusterDownError,
    DataError,
    MovedError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from shared_state.redis.base import Route
from shared_state.redis.server import Args, Attempt, Replicas, Server, open_server
from shared_state.redis.slots import SLOTS, address_of, covered, parse_slots, slot_of
from shared_state.redis.subscription import Subscription
from shared_state.redis.url import Address, Target

__all__ = ["ClusterRoute"]

MAX_HOPS = 6
TRY_AGAIN_S = 0.05
ASK_S = 1.0
ANY = ""

# A command's place in the batch; where it goes next (None: to the holder of its slot); whether ASKING goes before it.
_Hop = tuple[int, Address | None, bool]


class ClusterRoute(Route):
    """Every command goes to the primary of its slot."""

    one_server = False

    def __init__(self, target: Target, *, timeout_s: float, max_sockets: int) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._max_sockets = max_sockets
        self._servers: dict[Address, Server] = {}
        self._owners: list[Address | None] = [None] * SLOTS
        self._primaries: list[Address] = []
        self._doubts = 1
        self._settled = 0
        self._asking = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    # -- commands ------------------------------------------------------------------------------------------------------
    def lane(self, args: Args) -> str:
        slot = slot_of(args)
        owner = self._owners[slot] if slot is not None else None
        return f"{owner[0]}:{owner[1]}" if owner else ANY

    def server(self, lane: str) -> Server | None:
        if lane == ANY or self._settled != self._doubts:
            return None
        host, _, port = lane.rpartition(":")
        return self._servers.get((host, int(port)))

    async def execute(
        self,
        lane: str,  # noqa: ARG002
        commands: list[Args],
        replicas: Replicas | None,
        attempt: Attempt | None,
    ) -> list[Any]:
        replies: list[Any] = [None] * len(commands)
        hops: list[_Hop] = [(i, None, False) for i in range(len(commands))]
        if attempt is None:
            await self._know()
        for _ in range(MAX_HOPS):
            if attempt is None:
                await self._send(hops, commands, replies, replicas)
            else:
                replies, attempt = await self._answers(attempt.server, commands, None, attempt), None
            hops = [hop for i, _, _ in hops if (hop := self._redirection(i, replies[i])) is not None]
            if not hops:
                break
            if any(isinstance(replies[i], TryAgainError) for i, _, _ in hops):
                await asyncio.sleep(TRY_AGAIN_S)
            await self._know()
        if any(isinstance(reply, ClusterDownError | ReadOnlyError) for reply in replies):
            self._doubts += 1
        return replies

    async def _send(
        self, hops: list[_Hop], commands: list[Args], replies: list[Any], replicas: Replicas | None
    ) -> None:
        groups: dict[tuple[Address, bool], list[int]] = defaultdict(list)
        for i, address, asking in hops:
            owner = address or self._owner(commands[i])
            if owner is None:
                replies[i] = ClusterDownError("nobody holds the slot")
            else:
                groups[owner, asking].append(i)
        await asyncio.gather(
            *(
                self._send_to(address, places, commands, replies, replicas, asking=asking)
                for (address, asking), places in groups.items()
            )
        )

    async def _send_to(
        self,
        address: Address,
        places: list[int],
        commands: list[Args],
        replies: list[Any],
        replicas: Replicas | None,
        *,
        asking: bool,
    ) -> None:
        batch: list[Args] = []
        for i in places:
            batch += [("ASKING",), commands[i]] if asking else [commands[i]]
        answers = await self._answers(self._server(address), batch, replicas, None)
        for i, answer in zip(places, answers[1::2] if asking else answers, strict=True):
            replies[i] = answer

    async def _answers(
        self, server: Server, batch: list[Args], replicas: Replicas | None, attempt: Attempt | None
    ) -> list[Any]:
        """What one server says: if it breaks, that is its answer to each command."""
        try:
            return await server.pipeline(batch, replicas, attempt)
        except DataError:
            raise
        except (RedisError, OSError, RuntimeError) as exc:
            self._doubts += 1
            server.drop_idle()
            return [RedisConnectionError() if isinstance(exc, RuntimeError) else exc] * len(batch)

    def _redirection(self, place: int, reply: Any) -> _Hop | None:
        """Where a command that has not run is to be sent next; None if its reply stands."""
        if isinstance(reply, MovedError):
            self._doubts += 1
            return place, self._told(reply), False
        if isinstance(reply, AskError):
            return place, self._told(reply), True
        if isinstance(reply, TryAgainError):
            return place, None, False
        return None

    def _told(self, reply: AskError) -> Address:
        asked = self._owners[reply.slot_id] or self._target.addresses[0]
        return address_of(reply.host, reply.port, asked)

    def doubt(self, lane: str) -> None:
        self._doubts += 1
        for server in list(self._servers.values()):
            if lane in {ANY, server.address}:
                server.drop_idle()

    # -- channels ------------------------------------------------------------------------------------------------------
    def publish_command(self, channel: str, message: bytes) -> Args:
        return ("SPUBLISH", channel, message)

    async def subscribe(self, channel: str) -> Subscription:
        try:
            return await (await self._holder(channel)).subscribe(channel, sharded=True)
        except (RedisError, OSError):
            self._doubts += 1
            raise

    async def serves(self, subscription: Subscription) -> bool:
        return subscription.server is await self._holder(subscription.channel)

    async def _holder(self, channel: str) -> Server:
        await self._know()
        owner = self._owner(("SPUBLISH", channel))
        if owner is None:
            raise ClusterDownError("no server holds the channel's slot")
        return self._server(owner)

    # -- servers -------------------------------------------------------------------------------------------------------
    async def servers(self) -> list[Server]:
        await self._know()
        return [self._server(address) for address in self._primaries]

    async def close(self) -> None:
        await asyncio.gather(*self._closing, *(s.close() for s in self._servers.values()))
        self._servers.clear()

    def _server(self, address: Address) -> Server:
        server = self._servers.get(address)
        if server is None:
            server = self._servers[address] = open_server(
                self._target.options,
                timeout_s=self._timeout_s,
                max_sockets=self._max_sockets,
                host=address[0],
                port=address[1],
            )
        return server

    def _owner(self, args: Args) -> Address | None:
        slot = slot_of(args)
        if slot is not None:
            return self._owners[slot]
        return random.choice(self._primaries) if self._primaries else None  # noqa: S311 - any of them will do

    async def _know(self) -> None:
        """See that the map of slots is up to date. Raises redis-py's ConnectionError if nobody tells."""
        if self._settled == self._doubts:
            return
        async with self._asking:
            doubts = self._doubts
            if self._settled == doubts:
                return
            owners = await self._ask()
            if owners is not None:
                # A doubt that arose meanwhile may know more than this answer: it is not settled by it.
                self._owners, self._settled = owners, doubts
                self._primaries = sorted(covered(owners))
                self._release_others()
            elif not self._primaries:
                raise RedisConnectionError("no server of the cluster answers")

    async def _ask(self) -> list[Address | None] | None:
        """The map, from the first server that knows all of it; else the best that was told; None if nobody answers."""
        best: list[Address | None] | None = None
        asked = {*self._primaries, *self._target.addresses}
        tasks = [asyncio.create_task(self._ask_one(address)) for address in asked]
        try:
            for done in asyncio.as_completed(tasks):
                owners = await done
                if owners is not None and None not in owners:
                    return owners
                best = best or owners
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return best

    async def _ask_one(self, address: Address) -> list[Address | None] | None:
        try:
            async with asyncio.timeout(ASK_S):
                reply = (await self._server(address).pipeline([("CLUSTER", "SLOTS")]))[0]
            return parse_slots(reply, address)
        except (RedisError, OSError, RuntimeError, TimeoutError, TypeError, ValueError):
            return None

    def _release_others(self) -> None:
        for address in set(self._servers) - set(self._primaries):
            task = asyncio.create_task(self._servers.pop(address).close(), name="old-server-close")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
