"""HTTP/1.1 as a node serves it: an asyncio.Protocol of our own over httptools' parser, given to uvicorn as `http=`.

uvicorn's own protocol reads whatever arrives as fast as it arrives, for as long as it takes. This one holds the bounds
of `ConnectionBounds`:

- the head of a request is there within a time (`head_timeout_s`) and has a size (`HEAD_BYTES`);
- there are at most so many TCP connections, and an address has a share of them. Over the bound, the connection that has
  owed a request for longest is cut, so that probes get through while strangers hold connections open;
- requests that come before the one ahead of them is answered (pipelining) wait in the order in which they came, and
  nothing more is read meanwhile. What is no request, or asks for a WebSocket, takes no answer from one ahead of it;
- whatever follows a body in chunks (trailers) is not kept.

uvicorn's own protocol has no hook for any of this: a subclass replaced ten of its undocumented methods. What is left of
uvicorn here is how it constructs a protocol, `shutdown`, and the `ServerState` that every connection and request counts
itself in (tests/unit/test_library_contract.py lists it). Speed is not the reason: uvicorn's cycle makes 0.87 to 1.05 of
the tasks per second (docs/PERFORMANCE.md). Each request is answered by a task: `node.serving.request_cycle`.

What becomes a WebSocket goes on in the class given to uvicorn as `ws=`. Nothing here waits for Redis. A connection has
one timer, which looks now and then at what is due: one for every request and every pause between two would cost more
than parsing them.
"""

import asyncio
from collections import deque
from contextvars import Context
from typing import Any, cast
from urllib.parse import unquote

import httptools
import orjson
import uvicorn
from starlette.types import Scope
from uvicorn.server import ServerState

from node.serving.connection_bounds import Config
from node.serving.flow_control import FlowControl
from node.serving.request_cycle import Headers, RequestCycle, status_line
from node.telemetry.metrics import Limit

__all__ = ["HttpProtocol"]

HEAD_BYTES = 64 * 1024
HEAD_TOO_LARGE = "The head of the request is too large."
NO_REQUEST = "Invalid HTTP request received."
# So much of a body waits to be taken before nothing more is read.
BODY_BYTES = 64 * 1024


class HttpProtocol(asyncio.Protocol):
    """One TCP connection, from its first byte until it ends or becomes a WebSocket."""

    transport: asyncio.Transport
    flow: FlowControl

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.config = cast(Config, config)
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        self.tasks = server_state.tasks
        self._app = config.loaded_app
        self._bounds = self.config.bounds
        self._keep_alive_s: float = config.timeout_keep_alive
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        # What is known of the request that is being parsed.
        self._method = self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        # Whether it asks for a WebSocket.
        self._upgrades = False
        # The request that came last; those that wait for their turn, the one that is answered first; that one.
        self._last: RequestCycle | None = None
        self._waiting: deque[RequestCycle] = deque()
        self._answering: RequestCycle | None = None
        # Nothing more is taken: what was asked is answered, and then the connection ends.
        self._ending = False
        self._in_head = True
        self._head_bytes = 0
        self._reads_much = False
        # Whether the last request is all there, and how many began in what is read now.
        self._between = True
        self._begun = 0
        # Since when a request is owed, and since when nothing at all has come after the last answer; loop's time.
        self._owes_since: float | None = None
        self._idle_since: float | None = None
        self._look_s = min(self._bounds.head_timeout_s, self._keep_alive_s)
        self._look_again: asyncio.TimerHandle | None = None
        # Whether it has a place among the connections of its address.
        self._counted = False

    # -- what the transport tells --------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A newcomer: over the bound, whoever has owed a request longest makes room; over its share, it goes itself."""
        self.transport = transport
        self.flow = FlowControl(transport)
        self._client = _address(transport.get_extra_info("peername"))
        self._server = _address(transport.get_extra_info("sockname"))
        # uvicorn's annotation names its own protocols only; it calls `shutdown` on each of them.
        connections = cast(set[Any], self.server_state.connections)
        connections.add(self)
        self._counted = self._bounds.take(self._client)
        if not self._counted:
            self.refuse(Limit.ADDRESS_SHARE)
            return
        self._look_again = self.loop.call_later(self._look_s, self._look)
        self._owe(self.loop.time())
        if len(connections) > self._bounds.max_tcp_connections:
            next(iter(self._bounds.owing)).refuse(Limit.TCP_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: whoever answers is told, and what waits for its turn is not begun."""
        self._forget()
        self._leave()
        cast(set[Any], self.server_state.connections).discard(self)
        if self._answering is not None:
            self._answering.on_disconnect()
        self._waiting.clear()
        # Each of them and this object hold each other: thousands of such pairs would wait for the garbage collector.
        self._last = self._answering = self._parser = None
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()

    def pause_writing(self) -> None:
        """The transport holds as much as it may."""
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        """The transport takes more."""
        self.flow.resume_writing()

    def data_received(self, data: bytes) -> None:
        """What arrives; of a head, not more than the bound."""
        parser = self._parser
        if self._ending or parser is None:
            return
        self._idle_since = None
        between, self._begun = self._between, 0
        self._reads_much = len(data) > HEAD_BYTES
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Any other protocol is one that this server does not have: the request is answered as it is.
            if self._upgrades:
                self._become_websocket()
        except httptools.HttpParserError:
            self._refuse_request(NO_REQUEST)
        if self.transport.is_closing():
            return
        if self._in_head and not self._ending:
            # All that came is of this head, unless the end of something else came with its beginning.
            of_head = self._begun == 0 or (between and self._begun == 1)
            self._look_at_head(len(data) if of_head else 0)
        if not self.transport.is_closing():
            self._answer_next()

    def _refuse_request(self, detail: str) -> None:
        """What came is no request. Whoever asked before it gets its own answer, and not this one."""
        if self.transport.is_closing():
            return
        unfinished = self._last
        if unfinished is not None and not unfinished.whole and unfinished in self._waiting:
            # It is the one that broke off, and those ahead of it did not.
            self._waiting.remove(unfinished)
            self._last = self._waiting[-1] if self._waiting else self._answering
        if self._end_after_answers():
            return
        if unfinished is None or unfinished.response_complete or not unfinished.response_started:
            body = orjson.dumps({"detail": detail})
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            added = [b"%b: %b\r\n" % header for header in self.default_headers]
            self.transport.write(b"".join([status_line(400), *added, head, body]))
        # Else its answer is on its way already, and no other can follow it.
        self.transport.close()

    def _end_after_answers(self) -> bool:
        """Take nothing more, and end the connection once what was asked is answered. False if nothing was."""
        last = self._last
        if last is None or last.response_complete or not last.whole:
            return False
        last.keep_alive = False
        self._ending = True
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
                self._refuse_request(HEAD_TOO_LARGE)
            self.refuse(Limit.HEAD_BYTES)

    # -- what the parser tells -----------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        """A request begins."""
        self._url = b""
        self._headers = []
        self._expects_continue = False
        self._in_head, self._head_bytes = True, 0
        self._between = False
        self._begun += 1

    def on_url(self, piece: bytes) -> None:
        """A piece of what is asked for."""
        self._url += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. What follows a body in chunks is none: nobody asks for it, and nothing bounds it."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there. Raises ValueError if it is too large."""
        if self._reads_much and sum(len(name) + len(value) for name, value in self._headers) > HEAD_BYTES:
            # It came as a whole, in one read.
            self._bounds.metrics.refusals.labels(Limit.HEAD_BYTES).inc()
            self._refuse_request(HEAD_TOO_LARGE)
            raise ValueError(HEAD_TOO_LARGE)
        self._settle()
        self._in_head = False
        parser = cast(httptools.HttpRequestParser, self._parser)
        self._method = parser.get_method()
        self._upgrades = parser.should_upgrade() and _asks_for_websocket(self._headers)
        if self._upgrades:
            return
        version = parser.get_http_version()
        cycle = self._last = RequestCycle(
            self,
            self._scope(version),
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            owes_continue=self._expects_continue,
        )
        self._waiting.append(cycle)
        if self._answering is not None or len(self._waiting) > 1:
            # Pipelined: in its turn.
            self.flow.pause_reading()

    def _scope(self, version: str) -> Scope:
        url = httptools.parse_url(self._url)
        path = url.path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "method": self._method.decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": self._headers,
            "state": self.app_state.copy(),
        }

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        cycle = None if self._upgrades else self._last
        if cycle is not None and cycle.on_body(body) > BODY_BYTES:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """A request ends."""
        self._between = True
        cycle = None if self._upgrades else self._last
        if cycle is not None:
            cycle.on_message_complete()

    # -- answering -----------------------------------------------------------------------------------------------------
    def _answer_next(self) -> None:
        """Have the next request answered, if none is."""
        if self._answering is not None or not self._waiting:
            return
        cycle = self._answering = self._waiting.popleft()
        # In a context of its own: nothing of the request before it is in that of this one.
        task = self.loop.create_task(cycle.run(self._app), context=Context())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    @property
    def default_headers(self) -> Headers:
        """The headers that uvicorn adds to every answer: the time."""
        return self.server_state.default_headers

    def on_response_complete(self) -> None:
        """Answered: the next request is owed, and the rest of a body that was answered before its end."""
        self.server_state.total_requests += 1
        self._answering = None
        if self.transport.is_closing():
            return
        if self._waiting:
            # Nothing is read meanwhile.
            self._answer_next()
            return
        self.flow.resume_reading()
        self._idle_since = now = self.loop.time()
        if self._owes_since is None:
            self._owe(now)

    def shutdown(self) -> None:
        """uvicorn stops: end once what was asked last is answered, or at once if nothing is."""
        if self._is_working():
            cast(RequestCycle, self._last).keep_alive = False
        else:
            self.transport.close()

    def _become_websocket(self) -> None:
        """Hand the connection and the head over to the WebSocket protocol, unless an answer is yet to be written."""
        if self._end_after_answers():
            return
        self._forget()
        # From here on the place is the WebSocket protocol's.
        self._counted = False
        cast(set[Any], self.server_state.connections).discard(self)
        head = [b"%b %b HTTP/1.1\r\n" % (self._method, self._url)]
        head += [b"%b: %b\r\n" % header for header in self._headers]
        protocol = cast(Any, self.config.ws_protocol_class)(
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.connection_made(self.transport)
        protocol.data_received(b"".join(head) + b"\r\n")
        self.transport.set_protocol(protocol)
        # As when it is lost.
        self._last = self._parser = None

    def _leave(self) -> None:
        if self._counted:
            self._counted = False
            self._bounds.give(self._client)

    def refuse(self, limit: Limit) -> None:
        """Cut the connection: whoever has not asked yet needs no answer."""
        self._bounds.metrics.refusals.labels(limit).inc()
        self._forget()
        if not self.transport.is_closing():
            self.transport.abort()

    def _is_working(self) -> bool:
        """Whether a request is being answered."""
        return self._last is not None and not self._last.response_complete

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
            left_s = self._idle_since + self._keep_alive_s - now
            if left_s <= 0:
                self._forget()
                self.transport.close()
                return
            next_s = min(next_s, left_s)
        if self._owes_since is not None:
            left_s = self._owes_since + self._bounds.head_timeout_s - now
            if left_s <= 0:
                self.refuse(Limit.HEAD_TIMEOUT)
                return
            next_s = min(next_s, left_s)
        self._look_again = self.loop.call_later(next_s, self._look)


def _address(name: Any) -> tuple[str, int] | None:
    """Host and port of one end of a TCP connection; None where there are none."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None


def _asks_for_websocket(headers: Headers) -> bool:
    named = dict(headers)
    tokens = [token.lower().strip() for token in named.get(b"connection", b"").split(b",")]
    return b"upgrade" in tokens and named.get(b"upgrade", b"").lower() == b"websocket"
