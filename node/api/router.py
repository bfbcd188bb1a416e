"""From the table of routes to an ASGI application in which nothing fails without a plain answer."""

import logging
from collections.abc import Awaitable, Callable, Mapping

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from node.api.context import Context
from node.api.errors import ApiError, failure, from_state
from node.api.openapi import document, page
from node.api.routes import ROUTES, Handler
from shared_state.errors import StateError

__all__ = ["application", "internal_application"]

log = logging.getLogger(__name__)

_Endpoint = Callable[[Request], Awaitable[Response]]

METRICS = "/metrics"
INTERNAL = frozenset({METRICS, "/livez", "/readyz"})


def application(context: Context, lifespan: Lifespan[Starlette]) -> ASGIApp:
    """REST from the table, and the documents about it."""
    docs = page()

    async def openapi_json(request: Request) -> Response:  # noqa: ARG001
        return Response(openapi, media_type="application/json")

    async def docs_page(request: Request) -> Response:  # noqa: ARG001
        return HTMLResponse(docs)

    async def home(request: Request) -> Response:  # noqa: ARG001
        return RedirectResponse("docs")

    # With a port of their own, metrics are nothing that the world could ask for.
    served = [op for op in ROUTES if op.path != METRICS or not context.settings.metrics_port]
    openapi = orjson.dumps(document(served))
    routes = [Route(op.path, _endpoint(op.handler, context), methods=[op.method]) for op in served]
    routes += [
        Route("/openapi.json", openapi_json),
        Route("/docs", docs_page),
        Route("/", home),
    ]
    starlette = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _not_routed})
    return Exact(starlette, {(op.method, op.path): _endpoint(op.handler, context) for op in served})


class Exact:
    """Requests whose path is written out in the table go straight to their handler.

    Starlette tries one pattern after another, and wraps what it finds in three layers that catch what a handler here
    never raises: a third of what a dispatch costs. All else is Starlette's: parameters in paths, other methods, what is
    not there.
    """

    def __init__(self, rest: ASGIApp, endpoints: Mapping[tuple[str, str], _Endpoint]) -> None:
        self._rest = rest
        self._endpoints = {key: endpoint for key, endpoint in endpoints.items() if "{" not in key[1]}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        endpoint = self._endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None:
            await self._rest(scope, receive, send)
            return
        scope["aip.route"] = scope["path"]
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)


def internal_application(context: Context) -> Starlette:
    """What only the inside of the cluster asks for: metrics, and the probes."""
    routes = [
        Route(op.path, _endpoint(op.handler, context), methods=[op.method]) for op in ROUTES if op.path in INTERNAL
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _not_routed})


def _endpoint(handler: Handler, context: Context) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return await handler(context, request)
        except ApiError as exc:
            return failure(exc)
        except StateError as exc:
            return failure(from_state(exc))
        except Exception:
            log.exception("a request failed", extra={"request_id": getattr(request.state, "request_id", "")})
            return failure(ApiError(500, "Internal error"))

    return endpoint


async def _not_routed(request: Request, exc: Exception) -> Response:  # noqa: ARG001
    assert isinstance(exc, HTTPException)  # noqa: S101 - registered for nothing else
    return failure(ApiError(exc.status_code, exc.detail, headers=dict(exc.headers or {})))
