"""From the table of routes to an ASGI application in which nothing fails without a plain answer."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan

from node.api.context import Context
from node.api.docs import docs_routes
from node.api.openapi import document
from node.api.routes import ROUTES, Handler
from node.serving.http_errors import ApiError, failure, from_state
from node.serving.json_answer import JsonAnswer
from node.serving.proxies import behind_proxies
from shared_state.errors import StateError

__all__ = ["REQUEST_ID", "Application", "application", "internal_application"]

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]
# In the scope of a request: its id, as bytes.
REQUEST_ID = "aip.request_id"

METRICS = "/metrics"
INTERNAL = frozenset({METRICS, "/livez", "/readyz"})


@dataclass(frozen=True, slots=True)
class Application:
    """REST in two parts: `exact` has the paths without parameters, by method and path.

    Starlette tries one pattern after another, and wraps what it finds in three layers that catch what a handler here
    never raises: through it, a node dispatches 12 % fewer tasks (docs/PERFORMANCE.md). The `rest` is Starlette's:
    parameters in paths, other methods, what is not there. Only there it matters how the client of a proxy asked: for
    the address of a redirect.
    """

    exact: Mapping[tuple[str, str], Endpoint]
    rest: ASGIApp


def application(context: Context, lifespan: Lifespan[Starlette]) -> Application:
    """REST from the table, and the documents about it."""

    async def openapi_json(request: Request) -> Response:  # noqa: ARG001
        return JsonAnswer(openapi)

    async def home(request: Request) -> Response:  # noqa: ARG001
        return RedirectResponse("docs")

    # With a port of their own, metrics are nothing that the world could ask for.
    served = [op for op in ROUTES if op.path != METRICS or not context.settings.metrics_port]
    openapi = orjson.dumps(document(served))
    routes = [Route(op.path, _endpoint(op.handler, context), methods=[op.method]) for op in served]
    routes += [
        Route("/openapi.json", openapi_json),
        *docs_routes(),
        Route("/", home),
    ]
    starlette = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _not_routed})
    written_out = {(op.method, op.path): op for op in served if "{" not in op.path}
    exact = {where: _endpoint(op.handler, context) for where, op in written_out.items()}
    return Application(exact, behind_proxies(starlette))


def internal_application(context: Context) -> Starlette:
    """What only the inside of the cluster asks for: metrics, and the probes."""
    routes = [
        Route(op.path, _endpoint(op.handler, context), methods=[op.method]) for op in ROUTES if op.path in INTERNAL
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _not_routed})


def _endpoint(handler: Handler, context: Context) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        try:
            return await handler(context, request)
        except ApiError as exc:
            return failure(exc)
        except StateError as exc:
            return failure(from_state(exc))
        except Exception:
            log.exception("request failed", extra={"request_id": request.scope.get(REQUEST_ID, b"").decode()})
            return failure(ApiError(500, "Internal error"))

    return endpoint


async def _not_routed(request: Request, exc: Exception) -> Response:  # noqa: ARG001
    assert isinstance(exc, HTTPException)  # noqa: S101 - registered for nothing else
    return failure(ApiError(exc.status_code, exc.detail, headers=dict(exc.headers or {})))
