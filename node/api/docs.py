"""`/docs`: the OpenAPI document drawn by Swagger UI.

Swagger UI comes with the package (`swagger/README.md` names its version). The page loads nothing from another host, so
it works on a closed network, and its content security policy says so to the browser. Needs no key and no Redis.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

__all__ = ["DOCS_PATHS", "docs_routes"]

_FOLDER = StaticFiles(directory=Path(__file__).with_name("swagger"))
_FILES = {
    "/docs": "page.html",
    "/docs/page.js": "page.js",
    "/docs/swagger-ui-bundle.js": "swagger-ui-bundle.js",
    "/docs/swagger-ui.css": "swagger-ui.css",
}
_HEADERS = {
    # Swagger UI sets styles from its script, and its style sheet carries images as data.
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Asked for again with their ETag, and answered with 304 while the node has the same version of them.
    "Cache-Control": "no-cache",
}
DOCS_PATHS = frozenset(_FILES)


def docs_routes() -> list[Route]:
    """The routes of the page and of what it loads."""
    return [Route(path, _serving(name)) for path, name in _FILES.items()]


def _serving(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        response = await _FOLDER.get_response(name, request.scope)
        response.headers.update(_HEADERS)
        return response

    return serve
