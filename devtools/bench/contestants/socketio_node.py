"""python-socketio with its Redis manager: a dispatch is an `emit` into the room of the device, on whatever node it is.

No session, no result, no lookup of the device, no validation. Started by `devtools.bench` with BENCH_REDIS_URL set.
"""

import os
from typing import Any

import orjson
import socketio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

__all__ = ["app"]

_server = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=socketio.AsyncRedisManager(os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")),
    cors_allowed_origins="*",
    logger=False,
    engineio_logger=False,
)


async def connect(sid: str, environ: dict[str, Any], auth: dict[str, str]) -> None:  # noqa: ARG001
    """A device comes: the room is named like it."""
    await _server.enter_room(sid, auth["client_id"])


_server.on("connect", connect)


async def dispatch(request: Request) -> Response:
    """`POST /api/dispatch`."""
    task = orjson.loads(await request.body())
    session_id, response_id = os.urandom(16).hex(), os.urandom(16).hex()
    name = task.get("task_name") or session_id
    message = {
        "type": "task",
        "status": "continue",
        "user_request": task["request"],
        "task_name": name,
        "session_id": session_id,
        "response_id": response_id,
    }
    await _server.emit("task", message, room=task["client_id"])
    answer = {"status": "dispatched", "task_name": name, "client_id": task["client_id"], "session_id": session_id}
    return Response(orjson.dumps(answer), media_type="application/json")


async def livez(request: Request) -> Response:  # noqa: ARG001
    """`GET /livez`."""
    return PlainTextResponse("ok\n")


app = socketio.ASGIApp(
    _server,
    other_asgi_app=Starlette(routes=[Route("/api/dispatch", dispatch, methods=["POST"]), Route("/livez", livez)]),
)
