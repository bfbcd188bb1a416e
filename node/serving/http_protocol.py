"""HTTP as a node serves it: uvicorn's protocol, with bounds on those who have said little, and less work per request.

uvicorn reads whatever arrives as fast as it arrives, for as long as it takes. Here a connection has a while to finish
the head of a request and a bound on its size; there is a bound on open connections, and who still owes a request makes
room for newcomers, so that probes get through while strangers hold on. What becomes a WebSocket goes on in
`node.serving.websocket_protocol`. Nothing here waits for Redis.

A timer of its own for every request and every pause between two would cost more than parsing them: each connection has
one, which looks now and then at what is due. Nor has every request a task of its own: one whose body came with its head
is answered without, where the application says that it needs none. What a request and its answer are:
`node.serving.request_cycle`.
"""

import asyncio
from collections import deque
from contextvars import Context
from typing import Any, cast
from urllib.parse import unquote

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from node.concurrency.eager_task import EagerTask
from node.serving.connection_bounds import Config
from node.serving.request_cycle import Headers, RequestCycle
from node.telemetry.metrics import Limit

__all__ = ["HttpProtocol"]

HEAD_BYTES = 64 * 1024
HEAD_TOO_LARGE = "The head of the request is too large."


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
        ours = cast(Config, config)
        self._bounds = ours.bounds
        self._needs_no_task = ours.needs_no_task
        # Whether what comes now is a handshake, and no request.
        self._upgrades = False
        # The request that came last; those that came before it, and are answered first, are begun one by one.
        self._exchange: RequestCycle | None = None
        self._to_begin: deque[RequestCycle] = deque()
        self._answering: RequestCycle | None = None
        # Nothing more is heard: what was asked is answered, and then the connection ends.
        self._deaf = False
        self._in_head = True
        self._head_bytes = 0
        self._reads_much = False
        # Whether the last request is all there, and how many began in what is read now.
        self._between = True
        self._begun = 0
        # Since when a request is owed, and since when nothing at all has come after the last answer; loop's time.
        self._owes_since: float | None = None
        self._idle_since: float | None = None
        self._look_s = min(self._bounds.head_timeout_s, self.timeout_keep_alive)
        self._look_again: asyncio.TimerHandle | None = None
        # Whether it has a place among the connections of its address.
        self._counted = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A newcomer: over the bound, whoever has owed a request longest makes room; over its share, it goes itself."""
        super().connection_made(transport)
        self._counted = self._bounds.take(self.client)
        if not self._counted:
            self.refuse(Limit.ADDRESS_SHARE)
            return
        self._look_again = self.loop.call_later(self._look_s, self._look)
        self._owe(self.loop.time())
        if len(self.connections) > self._bounds.max_tcp_connections:
            next(iter(self._bounds.owing)).refuse(Limit.TCP_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: what is asked is answered to nobody, what is not begun is not begun."""
        self._forget()
        self._leave()
        self.connections.discard(self)
        if self._answering is not None:
            self._answering.on_disconnect()
        self._to_begin.clear()
        # They and this object hold each other: thousands of such pairs would wait for the collector.
        self._exchange = self._answering = None
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        self.parser = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """What arrives; of a head, not more than the bound."""
        if self._deaf:
            return
        self._idle_since = None
        between, self._begun = self._between, 0
        self._reads_much = len(data) > HEAD_BYTES
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head:
            # All that came is of this head, unless the end of something else came with its beginning.
            of_head = self._begun == 0 or (between and self._begun == 1)
            self._look_at_head(len(data) if of_head else 0)
        if not self.transport.is_closing():
            self._begin_next()

    def send_400_response(self, msg: str) -> None:
        """What came is no request. Whoever asked before it hears its own answer, and not this one."""
        if self.transport.is_closing() or self._end_after_answers():
            return
        body = orjson.dumps({"detail": msg})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        said = [b"%b: %b\r\n" % header for header in self.default_headers]
        self.transport.write(b"".join([STATUS_LINE[400], *said, head, body]))
        self.transport.close()

    def _end_after_answers(self) -> bool:
        """Hear nothing more, and end the connection once what was asked is answered. False if nothing was."""
        last = self._exchange
        if last is None or last.response_complete or not last.whole:
            return False
        last.keep_alive = False
        self._deaf = True
        self._settle()
        self.flow.pause_reading()
        return True

    def _look_at_head(self, came: int) -> None:
        # On a connection that is used again the deadline begins with the head. While the one before is answered, the
        # next is owed to nobody.
        if self._owes_since is None and not self._is_working():
            self._owe(self.loop.time())
        self._head_bytes += came
        if self._head_bytes > HEAD_BYTES:
            if not self._is_working():
                self.send_400_response(HEAD_TOO_LARGE)
            self.refuse(Limit.HEAD_BYTES)

    # -- what the parser tells -----------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        """A request begins."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head, self._head_bytes = True, 0
        self._between = False
        self._begun += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. What follows a body in chunks is none: nobody asks for it, and nothing bounds it."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there: what uvicorn does, with an exchange of ours. Raises ValueError if it is too large."""
        if self._reads_much and sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            # It came as a whole, in one read.
            self._bounds.metrics.refusals.labels(Limit.HEAD_BYTES).inc()
            self.send_400_response(HEAD_TOO_LARGE)
            raise ValueError(HEAD_TOO_LARGE)
        self._settle()
        self._in_head = False
        parser = self.parser
        version = parser.get_http_version()
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": cast(Any, self.scheme),
            "method": parser.get_method().decode("ascii"),
            "root_path": self.root_path,
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        self._upgrades = parser.should_upgrade() and self._should_upgrade()
        if self._upgrades:
            return
        self._exchange = RequestCycle(
            self,
            cast(Any, self.scope),
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            owes_continue=self.expect_100_continue,
        )
        self._to_begin.append(self._exchange)
        if self._answering is not None or len(self._to_begin) > 1:
            # Pipelined: in its turn.
            self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        exchange = None if self._upgrades else self._exchange
        if exchange is not None and exchange.on_body(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """A request ends."""
        self._between = True
        exchange = None if self._upgrades else self._exchange
        if exchange is not None:
            exchange.on_message_complete()

    # -- answering -----------------------------------------------------------------------------------------------------
    def _begin_next(self) -> None:
        """Have the next request answered, if none is: now if that can be, else by a task."""
        if self._answering is not None or not self._to_begin:
            return
        exchange = self._answering = self._to_begin.popleft()
        running = exchange.run(cast(Any, self.app))
        scope = exchange.scope
        if exchange.whole and self._needs_no_task(scope["method"], scope["path"]):
            EagerTask(running, "request", self.tasks).begin()
            return
        task = self.loop.create_task(running)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    @property
    def default_headers(self) -> Headers:
        """What uvicorn says with every answer: the time."""
        return self.server_state.default_headers

    def on_response_complete(self) -> None:
        """Answered: the next request is owed, and the rest of a body that was answered before its end."""
        self.server_state.total_requests += 1
        self._answering = None
        if self.transport.is_closing():
            return
        if self._to_begin:
            # Not in here: many that are answered at once would be one inside the other. Nothing is read meanwhile.
            self.loop.call_soon(self._begin_next, context=Context())
            return
        self.flow.resume_reading()
        self._idle_since = now = self.loop.time()
        if self._owes_since is None:
            self._owe(now)

    def shutdown(self) -> None:
        """The server stops: once what was asked last is answered, or at once if nothing is."""
        if self._exchange is None or self._exchange.response_complete:
            self.transport.close()
        else:
            self._exchange.keep_alive = False

    def handle_websocket_upgrade(self) -> None:
        """From here on a WebSocketProtocol has the connection, unless an answer is yet to be written into it."""
        if self._end_after_answers():
            return
        self._forget()
        # From here on the place is the WebSocketProtocol's.
        self._counted = False
        super().handle_websocket_upgrade()
        # As when it is lost.
        self._exchange = None
        self.parser = None  # type: ignore[assignment]

    def _leave(self) -> None:
        if self._counted:
            self._counted = False
            self._bounds.give(self.client)

    def refuse(self, limit: Limit) -> None:
        """Cut the connection: whoever has not asked yet needs no answer."""
        self._bounds.metrics.refusals.labels(limit).inc()
        self._forget()
        if not self.transport.is_closing():
            self.transport.abort()

    def _is_working(self) -> bool:
        """Whether a request is being answered."""
        return self._exchange is not None and not self._exchange.response_complete

    # -- what is due ---------------------------------------------------------------------------------------------------
    def _owe(self, since: float) -> None:
        self._bounds.owing[self] = None
        self._owes_since = since

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
