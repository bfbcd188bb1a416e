"""HTTP/1.1 to a server that is measured: kept-alive connections with one request under way on each.

It knows what the contestants answer with (a `Content-Length`), and nothing else: what is saved here is what a busy
generator can ask more. A connection that breaks fails its request with ConnectionError and is not opened again.
"""

import asyncio
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

__all__ = ["TRAFFIC", "Address", "Answer", "HttpConnection", "Traffic", "open_http", "without_delay"]

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length:"


@dataclass(slots=True)
class Traffic:
    """Bytes that this process has sent and received over its connections, headers of TCP left out."""

    sent: int = 0
    received: int = 0

    @property
    def total(self) -> int:
        """Both ways."""
        return self.sent + self.received


# One count for all: what is measured is one fleet at a time, and a look-up per frame would cost as much as the frame.
TRAFFIC = Traffic()


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body, and when its last byte was there, by time.perf_counter_ns."""

    status: int
    body: bytes
    at_ns: int


def without_delay(transport: asyncio.BaseTransport) -> None:
    """Small writes leave at once: both sides would otherwise wait for each other's acknowledgements."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class HttpConnection(asyncio.Protocol):
    """One connection. Ask again only when the answer to the request before has come."""

    def __init__(self, address: Address) -> None:
        self._host = f"{address.host}:{address.port}".encode()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._waiting: asyncio.Future[Answer] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def request(
        self, method: bytes, path: bytes, body: bytes = b"", headers: Mapping[bytes, bytes] | None = None
    ) -> asyncio.Future[Answer]:
        """Send a request, its body as JSON; the future has the answer, or ConnectionError. Cancel safe."""
        if self._transport is None or not self.is_open:
            raise ConnectionError("the connection is closed")
        more = b"".join(b"%b: %b\r\n" % header for header in (headers or {}).items())
        head = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (method, path, self._host, more)
        if body:
            head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        self._waiting = asyncio.get_running_loop().create_future()
        request = b"%b\r\n%b" % (head, body)
        TRAFFIC.sent += len(request)
        self._transport.write(request)
        return self._waiting

    def get(self, path: str) -> asyncio.Future[Answer]:
        """GET."""
        return self.request(b"GET", path.encode())

    def post(self, path: bytes, body: bytes) -> asyncio.Future[Answer]:
        """POST of JSON."""
        return self.request(b"POST", path, body)

    def close(self) -> None:
        """Safe to repeat."""
        if self._transport is not None:
            self._transport.close()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by inheritance.
        self._transport = cast(asyncio.Transport, transport)
        without_delay(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError(f"the connection was closed: {exc!r}"))

    def data_received(self, data: bytes) -> None:
        at_ns = time.perf_counter_ns()
        TRAFFIC.received += len(data)
        self._buffer = buffer = self._buffer + data if self._buffer else data
        end = buffer.find(HEAD_END)
        if end < 0:
            return
        start = end + len(HEAD_END)
        length = _content_length(buffer[:end])
        if len(buffer) < start + length:
            return
        self._buffer = buffer[start + length :]
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer(int(buffer[9:12]), buffer[start : start + length], at_ns))


def _content_length(head: bytes) -> int:
    at = head.lower().find(LENGTH)
    return int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0


async def open_http(address: Address) -> HttpConnection:
    """A connection to `address`. Raises OSError."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: HttpConnection(address), address.host, address.port)
    return connection
