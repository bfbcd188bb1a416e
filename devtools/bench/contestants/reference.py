"""The hand-written node: the least that a dispatch across two nodes can be, and nothing that lasts.

One script a dispatch: look the device up, write its session as a hash, publish the task to the device's node. All
scripts of one turn of the event loop travel in one redis-py pipeline. There is no inbox, no result, no lease, no
fencing, no limit: a lost publication is a lost task. Started by `devtools.bench` with BENCH_NODE and BENCH_REDIS_URL
set.
"""

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import AsyncIterator

import orjson
from pydantic import BaseModel
from redis.asyncio import BlockingConnectionPool, Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

__all__ = ["app"]

NODE = os.environ.get("BENCH_NODE", "a")
REDIS_URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")
REGISTRY = "devices"
ACKNOWLEDGED = '{"type":"heartbeat","status":"ok"}'
# KEYS 1 registry, 2 session; ARGV 1 client id, 2 task name, 3 request, 4 task (JSON)
DISPATCH = """
local node = redis.call('HGET', KEYS[1], ARGV[1])
if not node then return false end
redis.call('HSET', KEYS[2], 'state', 'queued', 'client_id', ARGV[1], 'task_name', ARGV[2], 'request', ARGV[3])
redis.call('EXPIRE', KEYS[2], 3600)
redis.call('PUBLISH', 'node:' .. node, ARGV[1] .. '\\n' .. ARGV[4])
return node
"""


class Task(BaseModel):
    """What a dispatch says."""

    client_id: str
    request: str
    task_name: str | None = None
    timeout_s: float | None = None


class Pipeline:
    """Calls of one script, those of one turn of the event loop together. No bound: this is no server for a fleet."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._sha = ""
        self._waiting: list[tuple[tuple[str | bytes, ...], asyncio.Future[bytes | None]]] = []
        self._flushing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Once, before the first call."""
        self._sha = await self._redis.script_load(DISPATCH)

    def call(self, *args: str | bytes) -> asyncio.Future[bytes | None]:
        """Two keys, then the arguments."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes | None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._start)
        self._waiting.append((args, answer))
        return answer

    def _start(self) -> None:
        task = asyncio.create_task(self._flush())
        self._flushing.add(task)
        task.add_done_callback(self._flushing.discard)

    async def _flush(self) -> None:
        calls, self._waiting = self._waiting, []
        pipeline = self._redis.pipeline(transaction=False)
        for args, _ in calls:
            pipeline.evalsha(self._sha, 2, *args)
        replies = await pipeline.execute(raise_on_error=False)
        for (_, answer), reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)


class Node:
    """What a request and a socket share."""

    def __init__(self) -> None:
        # Blocking: a fleet that arrives together waits for its turn, and does not fail.
        pool = BlockingConnectionPool.from_url(REDIS_URL, max_connections=100, timeout=60)
        self.redis = Redis(connection_pool=pool)
        self.sockets: dict[bytes, WebSocket] = {}
        self.pipeline = Pipeline(self.redis)

    async def forward(self) -> None:
        """Send what is published for this node."""
        subscription = self.redis.pubsub()
        await subscription.subscribe(f"node:{NODE}")
        async for message in subscription.listen():
            if message["type"] == "message":
                client_id, _, task = message["data"].partition(b"\n")
                if (socket := self.sockets.get(client_id)) is not None:
                    await socket.send_text(task.decode())


_node = Node()


async def dispatch(request: Request) -> Response:
    """`POST /api/dispatch`."""
    task = Task.model_validate_json(await request.body())
    session_id, response_id = os.urandom(16).hex(), os.urandom(16).hex()
    name = task.task_name or session_id
    message = {
        "type": "task",
        "status": "continue",
        "user_request": task.request,
        "task_name": name,
        "session_id": session_id,
        "response_id": response_id,
        "timestamp": time.time(),
    }
    node = await _node.pipeline.call(
        REGISTRY, f"session:{session_id}", task.client_id, name, task.request, orjson.dumps(message)
    )
    if node is None:
        return Response(b'{"detail":"Client not online"}', 404, media_type="application/json")
    answer = {"status": "dispatched", "task_name": name, "client_id": task.client_id, "session_id": session_id}
    return Response(orjson.dumps(answer), media_type="application/json")


async def serve(socket: WebSocket) -> None:
    """`/ws`: register, then listen."""
    await socket.accept()
    client_id = orjson.loads(await socket.receive_text())["client_id"].encode()
    await _node.redis.hset(REGISTRY, client_id, NODE)
    _node.sockets[client_id] = socket
    await socket.send_text(ACKNOWLEDGED)
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await socket.receive_text()
    _node.sockets.pop(client_id, None)


async def livez(request: Request) -> Response:  # noqa: ARG001
    """`GET /livez`."""
    return PlainTextResponse("ok\n")


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Redis, the subscription, and no garbage collection of what will live as long as the process."""
    await _node.pipeline.open()
    forwarding = asyncio.create_task(_node.forward())
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    yield
    forwarding.cancel()
    await asyncio.wait([forwarding])
    await _node.redis.aclose()


app = Starlette(
    routes=[
        Route("/api/dispatch", dispatch, methods=["POST"]),
        Route("/livez", livez),
        WebSocketRoute("/ws", serve),
    ],
    lifespan=lifespan,
)
