"""The route to one server, or to the one inside this process."""

import asyncio
from collections.abc import Sequence
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.connection import AbstractConnection

from shared_state.redis.base import Args, Attempt, Replicas, Route
from shared_state.redis.server import Done, Line, Server, open_server
from shared_state.redis.subscription import OnMessage, Subscription
from shared_state.redis.url import Target
from shared_state.redis.wire import Sockets

__all__ = ["SingleRoute"]

LOOK_EVERY_S = 1.0


class SingleRoute(Route):
    """Every command goes to the same server."""

    def __init__(self, target: Target, *, timeout_s: float, max_sockets: int) -> None:
        if target.kind == "embedded":
            self._server = _embedded(target.name)
            return
        host, port = target.addresses[0] if target.addresses else ("", 0)
        self._server = open_server(
            target.options, timeout_s=timeout_s, max_sockets=max_sockets, host=host, port=port, path=target.path
        )

    def server(self, lane: str) -> Server | None:  # noqa: ARG002
        return self._server

    async def execute(
        self,
        lane: str,  # noqa: ARG002
        commands: list[Args],
        replicas: Replicas | None,
        attempt: Attempt | None,
    ) -> list[Any]:
        return await self._server.pipeline(commands, replicas, attempt)

    def doubt(self, lane: str) -> None:  # noqa: ARG002
        self._server.drop_idle()

    def publish_command(self, channel: str, message: bytes) -> Args:
        return ("PUBLISH", channel, message)

    async def subscribe(self, channel: str) -> Subscription:
        return await self._server.subscribe(channel, sharded=False)

    async def serves(self, subscription: Subscription) -> bool:
        return subscription.server is self._server

    async def servers(self) -> list[Server]:
        return [self._server]

    async def close(self) -> None:
        await self._server.close()


_embedded_servers: dict[str, Any] = {}


def _embedded(name: str) -> Server:
    try:
        import fakeredis  # noqa: PLC0415 - an optional extra, needed for this URL only
    except ImportError:
        raise ValueError(
            "redis_url: embedded:// needs the extra 'embedded': pip install 'aip-cluster-server[embedded]'"
        ) from None
    server = _embedded_servers.setdefault(name, fakeredis.FakeServer())
    return _EmbeddedServer(fakeredis.FakeAsyncRedis(server=server, protocol=2))


class _EmbeddedServer(Server):
    """No bytes travel: redis-py's own pipeline, which fakeredis knows."""

    def __init__(self, client: aioredis.Redis) -> None:
        super().__init__(client, "embedded", Sockets(client, limit=0, repeats=False))

    def send(self, commands: Sequence[Args], done: Done) -> Line | None:  # noqa: ARG002
        return None

    async def _run(self, commands: Sequence[Args], attempt: Attempt | None) -> list[Any]:  # noqa: ARG002
        pipeline = self._client.pipeline(transaction=False)
        for args in commands:
            pipeline.execute_command(*args)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def subscribe(self, channel: str, *, sharded: bool) -> Subscription:  # noqa: ARG002 - of a Cluster only
        socket: AbstractConnection = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        subscription = _EmbeddedSubscription(socket, self, channel)
        await subscription.open()
        return subscription


class _EmbeddedSubscription(Subscription):
    """What fakeredis hands out is a queue: a task asks it again and again."""

    def __init__(self, socket: AbstractConnection, server: Server, channel: str) -> None:
        super().__init__(server, channel)
        self._socket = socket
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._socket.connect()  # type: ignore[no-untyped-call]
        await self._socket.send_command("SUBSCRIBE", self.channel, check_health=False)
        await self._socket.read_response()

    def listen(self, on_message: OnMessage) -> None:
        self._task = asyncio.create_task(self._listen(on_message), name="embedded-subscription")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._socket.disconnect()
        self._end("the subscription was closed")

    async def _listen(self, on_message: OnMessage) -> None:
        task = asyncio.current_task()
        while True:
            reply: Any = await self._socket.read_response(timeout=LOOK_EVERY_S, disconnect_on_error=False)
            if task is not None and task.cancelling():
                # `asyncio.wait_for` of Python 3.11, which fakeredis uses, can lose a cancellation: whoever cancelled
                # would wait for ever.
                return
            if reply is not None:
                on_message(reply[2])
