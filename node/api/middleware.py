"""Around every request: its id, the key, a place among those that are worked on, and the time it took."""

import contextlib
import re
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aip import new_id
from node.api.errors import ApiError, failure
from node.api.limits import Limits
from node.auth import Auth
from node.telemetry.metrics import Metrics
from node.telemetry.trace import TRACEPARENT, TraceContext, parse
from node.telemetry.tracing import Tracing, Work

__all__ = ["OPEN_PATHS", "Shell"]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
REQUEST_ID = b"x-request-id"
TRACE_ID = b"x-trace-id"
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# Without the key: what probes and people who have none yet may read.
OPEN_PATHS = frozenset({"/api/health", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/"})


class Shell:
    """The outermost layer of REST."""

    def __init__(
        self,
        app: ASGIApp,
        auth: Auth,
        limits: Limits,
        metrics: Metrics,
        tracing: Tracing | None,
        leaving: Callable[[], bool],
    ) -> None:
        self._app = app
        self._auth = auth
        self._limits = limits
        self._metrics = metrics
        self._tracing = tracing
        # While this says so, no connection is kept: one that is closed here while a request is on its way loses it.
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        started, status = time.perf_counter(), 500
        work = None
        if self._tracing is not None and scope["path"] not in OPEN_PATHS:
            work = self._tracing.start("request", "SERVER", _asked_in(scope), http__request__method=_method(scope))

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id)]
                if work is not None:
                    message["headers"].append((TRACE_ID, work.context.trace_id.encode()))
                    _answered(work, scope, status)
                if self._leaving():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            with work or contextlib.nullcontext():
                await self._answer(scope, receive, send_with_id, request_id)
        finally:
            exemplar = None if work is None else work.context.exemplar
            took_s = time.perf_counter() - started
            self._metrics.request(_method(scope), _route(scope), status, took_s, exemplar)

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


def _method(scope: Scope) -> str:
    """A peer chooses the method too: only those that somebody serves become labels."""
    return scope["method"] if scope["method"] in METHODS else "other"


def _route(scope: Scope) -> str:
    return scope.get("aip.route") or getattr(scope.get("route"), "path", None) or "none"


def _answered(work: Work, scope: Scope, status: int) -> None:
    route = _route(scope)
    work.rename(f"{_method(scope)} {route}")
    work.note(http__route=route, http__response__status_code=status)
    if status >= 500:
        work.fail(str(status))


def _asked_in(scope: Scope) -> TraceContext | None:
    """The trace that the request says it belongs to."""
    given = [value for name, value in scope["headers"] if name == TRACEPARENT.encode()]
    # More than one is none, says the standard.
    return parse(given[0].decode("latin-1")) if len(given) == 1 else None


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == REQUEST_ID and _GIVEN_ID.fullmatch(value):
            return bytes(value)
    return new_id().encode()
