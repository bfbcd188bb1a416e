"""HTTP as a node serves it: uvicorn's protocol, with bounds on those who have said little, and less work per request.

uvicorn reads whatever arrives as fast as it arrives, for as long as it takes. Here a connection has a while to finish
the head of a request and a bound on its size; there is a bound on open connections, and who still owes a request makes
room for newcomers, so that probes get through while strangers hold on. What becomes a WebSocket goes on in
`node.websocket`. Nothing here waits for Redis.

A timer of its own for every request and every pause between two would cost more than parsing them: each connection has
one, which looks now and then at what is due. An answer whose length is known travels as one write.
"""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from node.pace import Pace
from node.telemetry.metrics import Limit, Metrics
from node.websocket import WebSocketProtocol

__all__ = ["Bounds", "Config", "HttpProtocol"]

HEAD_BYTES = 64 * 1024
# What no name, and what no value of a header may hold: whoever could write it could end the head, and begin another.
_NOT_IN_NAMES = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\"]')
_NOT_IN_VALUES = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
NO_BODY = frozenset({204, 304})


@dataclass(slots=True)
class Bounds:
    """The bounds of one node's connections, and what is counted against them."""

    metrics: Metrics
    max_tcp_connections: int
    head_timeout_s: float
    message_rate_per_s: float
    message_burst: int
    message_patience_s: float
    # Those who owe a request, longest first.
    owing: dict["HttpProtocol", None] = field(default_factory=dict)

    def pace(self) -> Pace:
        """The pace of one WebSocket."""
        return Pace(self.message_rate_per_s, self.message_burst, patience_s=self.message_patience_s)


class Config(uvicorn.Config):
    """uvicorn's configuration, and our bounds."""

    def __init__(self, app: Any, bounds: Bounds, **options: Any) -> None:
        super().__init__(app, http=HttpProtocol, ws=WebSocketProtocol, **options)
        self.bounds = bounds


class HttpProtocol(HttpToolsProtocol):
    """HTTP with a deadline and a bound for the head of each request."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = cast(Config, config).bounds
        self._in_head = True
        self._head_bytes = 0
        # Since when a request is owed, and since when nothing at all has come after the last answer; loop's time.
        self._owes_since: float | None = None
        self._idle_since: float | None = None
        self._look_s = min(self._bounds.head_timeout_s, self.timeout_keep_alive)
        self._look_again: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A newcomer: over the bound, whoever has owed a request longest makes room, or it goes itself."""
        super().connection_made(transport)
        self._look_again = self.loop.call_later(self._look_s, self._look)
        self._owe()
        if len(self.connections) > self._bounds.max_tcp_connections:
            next(iter(self._bounds.owing)).refuse(Limit.TCP_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What arrives; of a head, not more than the bound."""
        self._idle_since = None
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        # On a connection that is used again the deadline begins with the head. While the one before is answered, the
        # next is owed to nobody.
        if self._owes_since is None and not self._is_working():
            self._owe()
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            if not self._is_working():
                self.send_400_response("The head of the request is too large.")
            self.refuse(Limit.HEAD_BYTES)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """The head is there: what uvicorn does, with an exchange of ours."""
        self._settle()
        self._in_head = False
        parser, scope = self.parser, self.scope
        version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        if parser.should_upgrade() and self._should_upgrade():
            return
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        before = self.cycle
        self.cycle = Exchange(self, keep_alive=version != "1.0" and parser.should_keep_alive())
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            # Pipelined: in its turn.
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_response_complete(self) -> None:
        """Answered: the next request is owed, and the rest of a body that was answered before its end."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self._owes_since is None:
            self._owe()

    def handle_websocket_upgrade(self) -> None:
        """From here on a WebSocketProtocol has the connection."""
        self._forget()
        super().handle_websocket_upgrade()
        # The parser and this object hold each other: thousands of such pairs would wait for the collector.
        self.parser = None  # type: ignore[assignment]

    def refuse(self, limit: Limit) -> None:
        """Cut the connection: whoever has not asked yet needs no answer."""
        self._bounds.metrics.refusals.labels(limit).inc()
        self._forget()
        if not self.transport.is_closing():
            self.transport.abort()

    def _is_working(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    # -- what is due ---------------------------------------------------------------------------------------------------
    def _owe(self) -> None:
        self._bounds.owing[self] = None
        self._owes_since = self.loop.time()

    def _settle(self) -> None:
        if self._owes_since is not None:
            self._owes_since = None
            del self._bounds.owing[self]

    def _forget(self) -> None:
        """Nothing is due of it any more."""
        self._settle()
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None

    def _look(self) -> None:
        """Cut who owes a request for too long, close who kept the connection for nothing; else look again in time."""
        now = self.loop.time()
        # Never later than what may begin to be due in a moment.
        next_s = self._look_s
        if self._idle_since is not None:
            left_s = self._idle_since + self.timeout_keep_alive - now
            if left_s <= 0:
                self._forget()
                self.timeout_keep_alive_handler()
                return
            next_s = min(next_s, left_s)
        if self._owes_since is not None:
            left_s = self._owes_since + self._bounds.head_timeout_s - now
            if left_s <= 0:
                self.refuse(Limit.HEAD_TIMEOUT)
                return
            next_s = min(next_s, left_s)
        self._look_again = self.loop.call_later(next_s, self._look)


class Exchange(RequestResponseCycle):
    """A request and its answer. An answer that says its length waits for its body, to travel with it as one write."""

    def __init__(self, protocol: HttpProtocol, *, keep_alive: bool) -> None:
        super().__init__(
            scope=protocol.scope,
            transport=protocol.transport,
            flow=protocol.flow,
            logger=protocol.logger,
            access_logger=protocol.access_logger,
            access_log=False,
            default_headers=protocol.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=protocol.expect_100_continue,
            keep_alive=keep_alive,
            on_response=protocol.on_response_complete,
        )
        self._head = b""

    async def send(self, message: ASGISendEvent) -> None:
        """Take a message of the answer, as ASGI has it. Raises RuntimeError if it is none, or comes out of turn."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        expected = "http.response.body" if self.response_started else "http.response.start"
        if message["type"] != expected or self.response_complete:
            raise RuntimeError(f"an answer goes on with '{message['type']}' where it cannot")
        if message["type"] == "http.response.start":
            self._begin(message["status"], [*self.default_headers, *message.get("headers", ())])
        elif message["type"] == "http.response.body":
            self._go_on(message.get("body", b""), last=not message.get("more_body", False))

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head."""
        if _NOT_IN_NAMES.search(b"".join([name for name, _ in headers])):
            raise RuntimeError("Invalid HTTP header name.")
        if _NOT_IN_VALUES.search(b"".join([value for _, value in headers])):
            raise RuntimeError("Invalid HTTP header value.")
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status]]
        says_close = False
        for given, value in headers:
            name = given.lower()
            if name == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length = 0
                self.chunked_encoding = True
            elif name == b"connection" and b"close" in [token.lower().strip() for token in value.split(b",")]:
                self.keep_alive = False
                says_close = True
            lines += (name, b": ", value, b"\r\n")
        if not self.keep_alive and not says_close:
            lines.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in NO_BODY:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if self.chunked_encoding:
            # A stream: what comes next may be long in coming.
            self.transport.write(head)
        else:
            self._head = head

    def _go_on(self, body: bytes, *, last: bool) -> None:
        """A piece of the body, or all of it."""
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            body = b""
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if last:
                body += b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("Response content longer than Content-Length")
        if head or body:
            self.transport.write(head + body)
        if not last:
            return
        if self.expected_content_length != 0:
            raise RuntimeError("Response content shorter than Content-Length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
