"""Around every request: its id, the key, a place among those that are worked on, and the time it took."""

import re
import time
from collections.abc import Callable
from itertools import count

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from aip_cluster.protocol import new_id
from node.api.docs import DOCS_PATHS
from node.api.router import REQUEST_ID, Application
from node.serving.auth import Auth
from node.serving.headers import headers_of
from node.serving.http_errors import ApiError, failure
from node.serving.request_limits import Limits
from node.serving.web_guard import WebGuard
from node.telemetry.metrics import Metrics
from node.telemetry.trace import TRACEPARENT, TraceContext, parse
from node.telemetry.tracing import Tracing, Work

__all__ = ["OPEN_PATHS", "RequestMiddleware"]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
_ID_HEADER = b"x-request-id"
_TRACE_HEADER = b"x-trace-id"
# In a request's scope, beside REQUEST_ID.
ROUTE = "aip.route"
_STATUS = "aip.status"
_WORK = "aip.work"
# What we name a request: random digits of this process, and a number.
_PROCESS = new_id().rpartition("-")[2].encode()
_numbers = count(1)
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# Under any host name: what asks whether the node lives, however it found it.
PROBES = frozenset({"/livez", "/readyz"})
# Without the key: what probes and people who have none yet may read.
OPEN_PATHS = frozenset({"/api/health", "/livez", "/readyz", "/metrics", "/openapi.json", "/"}) | DOCS_PATHS


class RequestMiddleware:
    """The outermost layer of REST."""

    def __init__(
        self,
        app: Application,
        auth: Auth,
        web_guard: WebGuard,
        limits: Limits,
        metrics: Metrics,
        tracing: Tracing | None,
        draining: Callable[[], bool],
    ) -> None:
        self._exact = app.exact
        self._rest = app.rest
        self._auth = auth
        self._web_guard = web_guard
        self._limits = limits
        self._metrics = metrics
        self._tracing = tracing
        # While this says so, no connection is kept: one that is closed here while a request is on its way loses it.
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        started = time.perf_counter()
        scope[REQUEST_ID] = _request_id(scope)
        exemplar = None
        try:
            if self._tracing is None or scope["path"] in OPEN_PATHS:
                await self._answer(scope, receive, send)
            else:
                asked_in, method = _asked_in(scope), _method(scope)
                with self._tracing.start("request", "SERVER", asked_in, http__request__method=method) as work:
                    scope[_WORK], exemplar = work, work.context.exemplar
                    await self._answer(scope, receive, send)
        finally:
            took_s = time.perf_counter() - started
            self._metrics.request(_method(scope), _route(scope), scope.get(_STATUS, 500), took_s, exemplar)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = self._refusal(scope)
        send = self._signing(scope, send)
        try:
            endpoint = self._exact.get((scope["method"], scope["path"]))
            if response is None and endpoint is not None:
                scope[ROUTE] = scope["path"]
                response = await endpoint(Request(scope, receive))
            await (response or self._rest)(scope, receive, send)
        finally:
            self._limits.end(scope)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that the node does not take up; None if it does, and the request has a place now."""
        path = scope["path"]
        if path in PROBES:
            return None
        headers = headers_of(scope)
        try:
            refused = self._web_guard.refuse(headers, scope["method"], scope["http_version"])
            if refused is not None:
                raise ApiError(*refused)
            if path in OPEN_PATHS:
                return None
            if not self._auth.allows(scope["headers"]):
                raise ApiError(401, "Missing or wrong API key")
            self._limits.begin(scope, headers)
        except ApiError as exc:
            return failure(exc)
        return None

    def _signing(self, scope: Scope, send: Send) -> Send:
        async def send_signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._signature(scope, message["status"])]
            await send(message)

        return send_signed

    def _signature(self, scope: Scope, status: int) -> list[tuple[bytes, bytes]]:
        """What every answer says besides: its id, its trace, and that the connection is not kept."""
        scope[_STATUS] = status
        signature = [(_ID_HEADER, scope[REQUEST_ID])]
        work = scope.get(_WORK)
        if work is not None:
            signature.append((_TRACE_HEADER, work.context.trace_id.encode()))
            _answered(work, scope, status)
        if self._draining():
            signature.append((b"connection", b"close"))
        return signature


def _method(scope: Scope) -> str:
    """A peer chooses the method too: only those that somebody serves become labels."""
    return scope["method"] if scope["method"] in METHODS else "other"


def _route(scope: Scope) -> str:
    return scope.get(ROUTE) or getattr(scope.get("route"), "path", None) or "none"


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
    if _ID_HEADER in headers_of(scope):
        for name, value in scope["headers"]:
            if name == _ID_HEADER and _GIVEN_ID.fullmatch(value):
                return bytes(value)
    return b"%b-%d" % (_PROCESS, next(_numbers))
