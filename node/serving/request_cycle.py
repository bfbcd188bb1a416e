"""One request over HTTP and its answer, as ASGI has them: `receive` and `send` of one call of the application.

The connection (`node.serving.http_protocol`) parses what arrives and passes it in with the methods `on_...`; the
application takes the body and gives the answer message by message. The head of an answer whose length is known waits
for the body, so that both travel in one write.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

from node.serving.flow_control import FlowControl

__all__ = ["Headers", "HttpConnection", "RequestCycle", "status_line"]

log = logging.getLogger(__name__)

# What no name, and what no value of a header may hold: whoever could write it could end the head, and begin another.
_CONTROLS = bytes([*range(0x20), 0x7F])
_NOT_IN_NAMES = _CONTROLS + b'()<>@,;:[]={} \t\\"'
_NOT_IN_VALUES = _CONTROLS.replace(b"\t", b"")
# What says how an answer travels, and not what it is.
_OF_THE_CONNECTION = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_NO_BODY = frozenset({204, 304})
_BROKEN = b"Internal Server Error"
_BROKEN_HEADERS = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"%d" % len(_BROKEN)),
    (b"connection", b"close"),
]

Headers = Sequence[tuple[bytes, bytes]]


class HttpConnection(Protocol):
    """What a request needs of the connection that it came over."""

    transport: asyncio.Transport
    flow: FlowControl

    @property
    def default_headers(self) -> Headers:
        """The headers that the server adds to every answer."""

    def on_response_complete(self) -> None:
        """The answer is written."""


class RequestCycle:
    """One request and its answer. Without `keep_alive` the connection is closed after the answer."""

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_flow",
        "_head",
        "_left",
        "_more_body",
        "_news",
        "_owes_continue",
        "_transport",
        "_wake",
        "disconnected",
        "keep_alive",
        "response_complete",
        "response_started",
        "scope",
    )

    def __init__(self, connection: HttpConnection, scope: Scope, *, keep_alive: bool, owes_continue: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self._connection = connection
        self._transport = connection.transport
        self._flow = connection.flow
        # The request: what of its body nobody has taken yet, and whether there is anything to tell who waits for it.
        self._owes_continue = owes_continue
        self._body: bytes | bytearray = b""
        self._more_body = True
        self._news = False
        self._wake: asyncio.Event | None = None
        # The answer: its head while that waits for the body, and how much of the body is to come.
        self._head = b""
        self._chunked = False
        self._left = 0

    # -- the request, as the connection tells it -----------------------------------------------------------------------
    def on_body(self, piece: bytes) -> int:
        """A piece of the body came. Returns how many bytes of it wait to be taken: none once it is answered."""
        if self.response_complete:
            return 0
        if not self._body:
            self._body = piece
        elif isinstance(self._body, bytearray):
            self._body += piece
        else:
            self._body = bytearray(self._body + piece)
        self._tell()
        return len(self._body)

    def on_message_complete(self) -> None:
        """All of the request is there."""
        self._more_body = False
        self._tell()

    def on_disconnect(self) -> None:
        """The peer is gone."""
        if not self.response_complete:
            self.disconnected = True
        self._tell()

    def _tell(self) -> None:
        self._news = True
        wake, self._wake = self._wake, None
        if wake is not None:
            wake.set()

    # -- the request, as the application sees it -----------------------------------------------------------------------
    @property
    def whole(self) -> bool:
        """Whether nothing of the request is yet to come."""
        return not self._more_body

    async def receive(self) -> Message:
        """The next message of the request, as ASGI has it."""
        if self._owes_continue and not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._owes_continue = False
        if self._more_body and not self.disconnected and not self.response_complete:
            # Else what is read is asked behind this, and waits for its turn.
            self._flow.resume_reading()
        while not (self._news or self.disconnected or self.response_complete):
            if self._wake is None:
                self._wake = asyncio.Event()
            await self._wake.wait()
        self._news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), b""
        return {"type": "http.request", "body": body, "more_body": self._more_body}

    # -- the answer ----------------------------------------------------------------------------------------------------
    async def run(self, app: ASGIApp) -> None:
        """Have `app` answer. Whatever it does, the peer gets an answer, or the connection ends."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as exc:
            log.error("the application failed in a request", exc_info=exc)
            await self._break()
            return
        if not self.response_complete and not self.disconnected:
            log.error("the application left a request without an answer")
            await self._break()

    async def _break(self) -> None:
        if self.response_started:
            self._transport.close()
        else:
            await self.send({"type": "http.response.start", "status": 500, "headers": _BROKEN_HEADERS})
            await self.send({"type": "http.response.body", "body": _BROKEN})

    async def send(self, message: Message) -> None:
        """Take a message of the answer, as ASGI has it. Raises RuntimeError if it is none, or comes out of turn."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        expected = "http.response.body" if self.response_started else "http.response.start"
        if message["type"] != expected or self.response_complete:
            raise RuntimeError(f"an answer goes on with '{message['type']}' where it cannot")
        if message["type"] == "http.response.start":
            self._begin(message["status"], list(message.get("headers", ())))
        else:
            self._go_on(message.get("body", b""), last=not message.get("more_body", False))

    def _begin(self, status: int, headers: Headers) -> None:
        """The head. If it says how long the body is, it waits for it, to travel with it as one write."""
        values = b"".join([value for _, value in headers])
        if len(values.translate(None, _NOT_IN_VALUES)) != len(values):
            raise RuntimeError("Invalid HTTP header value.")
        lines = [status_line(status)]
        for name, value in self._connection.default_headers:
            lines += (name, b": ", value, b"\r\n")
        left, chunked, says_close = 0, None, False
        for given, value in headers:
            name, line = _line(given)
            if name not in _OF_THE_CONNECTION:
                pass
            elif name == b"content-length" and chunked is None:
                left, chunked = int(value), False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                left, chunked = 0, True
            elif name == b"connection" and b"close" in [token.lower().strip() for token in value.split(b",")]:
                says_close = True
            lines += (line, value, b"\r\n")
        self.response_started = True
        self._owes_continue = False
        self._left = left
        if says_close:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if chunked is None and self.scope["method"] != "HEAD" and status not in _NO_BODY:
            chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        self._head = b"".join(lines)
        self._chunked = bool(chunked)
        if chunked:
            # A stream: what comes next may be long in coming.
            self._write(b"")

    def _go_on(self, body: bytes, *, last: bool) -> None:
        """A piece of the body, or all of it."""
        if self.scope["method"] == "HEAD":
            self._left = 0
            body = b""
        elif self._chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if last:
                body += b"0\r\n\r\n"
        else:
            self._left -= len(body)
            if self._left < 0:
                raise RuntimeError("Response content longer than Content-Length")
        self._write(body)
        if not last:
            return
        if self._left != 0:
            raise RuntimeError("Response content shorter than Content-Length")
        self.response_complete = True
        self._tell()
        if not self.keep_alive:
            self._transport.close()
        self._connection.on_response_complete()

    def _write(self, body: bytes) -> None:
        head, self._head = self._head, b""
        if head or body:
            self._transport.write(head + body)


@lru_cache(maxsize=128)
def status_line(status: int) -> bytes:
    """The first line of an answer. Raises ValueError if HTTP knows no such status."""
    return b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())


# An application has a few dozen of them.
@lru_cache(maxsize=256)
def _line(given: bytes) -> tuple[bytes, bytes]:
    """The name of a header in lower case, and how its line begins."""
    if len(given.translate(None, _NOT_IN_NAMES)) != len(given):
        raise RuntimeError("Invalid HTTP header name.")
    name = given.lower()
    return name, name + b": "
