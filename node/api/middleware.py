"""Around every request: its id, the key, a place among those that are worked on, and the time it took."""

import re
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aip import new_id
from node.api.errors import ApiError, failure
from node.api.limits import Limits
from node.auth import Auth
from node.telemetry.metrics import Metrics

__all__ = ["OPEN_PATHS", "Shell"]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
REQUEST_ID = b"x-request-id"
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# Without the key: what probes and people who have none yet may read.
OPEN_PATHS = frozenset({"/api/health", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/"})


class Shell:
    """The outermost layer of REST."""

    def __init__(self, app: ASGIApp, auth: Auth, limits: Limits, metrics: Metrics, leaving: Callable[[], bool]) -> None:
        self._app = app
        self._auth = auth
        self._limits = limits
        self._metrics = metrics
        # While this says so, no connection is kept: one that is closed here while a request is on its way loses it.
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        started, status = time.perf_counter(), 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id)]
                if self._leaving():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._answer(scope, receive, send_with_id, request_id)
        finally:
            route = scope.get("aip.route") or getattr(scope.get("route"), "path", None) or "none"
            # A peer chooses the method too: only those that somebody serves become labels.
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.request(method, route, status, time.perf_counter() - started, None)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: bytes) -> None:
        if scope["path"] not in OPEN_PATHS and not self._auth.allows(scope["headers"]):
            await failure(ApiError(401, "Missing or wrong API key"))(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = request_id.decode()
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            working = self._limits.begin(state)
        except ApiError as exc:
            await failure(exc)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            working.end()


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == REQUEST_ID and _GIVEN_ID.fullmatch(value):
            return bytes(value)
    return new_id().encode()
