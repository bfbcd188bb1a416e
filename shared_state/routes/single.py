"""The route to one server, or to the one inside this process."""

from collections.abc import Sequence
from typing import Any

import redis.asyncio as aioredis

from shared_state.redis_url import Target
from shared_state.routes.base import Args, Attempt, Replicas, Route
from shared_state.routes.server import Done, Line, Server, open_server
from shared_state.routes.subscription import Subscription
from shared_state.routes.wire import Sockets

__all__ = ["SingleRoute"]


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
            "redis_url: embedded:// needs the extra 'embedded': pip install 'aip-cluster[embedded]'"
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
