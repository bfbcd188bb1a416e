"""Starlette with pydantic and orjson, and nothing behind it: the most that a route of this framework can answer."""

import orjson
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

__all__ = ["app"]


class Task(BaseModel):
    """What a dispatch says."""

    client_id: str
    request: str
    task_name: str | None = None
    timeout_s: float | None = None


async def dispatch(request: Request) -> Response:
    """`POST /api/dispatch`."""
    task = Task.model_validate_json(await request.body())
    answer = {"status": "dispatched", "task_name": task.task_name, "client_id": task.client_id}
    return Response(orjson.dumps(answer), media_type="application/json")


async def livez(request: Request) -> Response:  # noqa: ARG001
    """`GET /livez`."""
    return PlainTextResponse("ok\n")


app = Starlette(routes=[Route("/api/dispatch", dispatch, methods=["POST"]), Route("/livez", livez)])
