"""The client's side of a WebSocket (RFC 6455), without extensions: small enough for ten thousand in one process.

Frames are masked with zeros, which the standard allows and which costs nothing. A subclass hears whole text messages.
A handshake that is answered with anything but 101 is reported as `Refused`, with its `Retry-After`.
"""

import asyncio
import base64
import os
import struct
from typing import NamedTuple, cast

from devtools.bench.connections import TRAFFIC, Address, without_delay

__all__ = ["Frame", "Refused", "WebSocket", "encode_frame", "parse_frame"]

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
CONTINUATION = 0
NO_MASK = b"\0\0\0\0"


class Refused(ConnectionError):
    """The server did not let this socket in; `retry_after_s` is when it may ask again, as it was told."""

    def __init__(self, why: str, retry_after_s: float = 1.0) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class Frame(NamedTuple):
    """A frame of the server and where the next one begins."""

    final: bool
    opcode: int
    payload: bytes
    end: int


def encode_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A masked frame with the whole message."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65_536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + NO_MASK + payload


def parse_frame(buffer: bytes, start: int) -> Frame | None:
    """The frame of a server (never masked) that begins at `start`; None if it is not whole yet."""
    if len(buffer) - start < 2:
        return None
    first, size = buffer[start], buffer[start + 1] & 0x7F
    body = start + 2
    if size >= 126:
        width = 2 if size == 126 else 8
        if len(buffer) - body < width:
            return None
        size = int.from_bytes(buffer[body : body + width], "big")
        body += width
    end = body + size
    if len(buffer) < end:
        return None
    return Frame(bool(first & 0x80), first & 0x0F, buffer[body:end], end)


class WebSocket(asyncio.Protocol):
    """One socket. Subclasses override `on_open`, `on_text` and `on_end`."""

    __slots__ = ("_address", "_buffer", "_parts", "_path", "is_open", "transport")

    def __init__(self, address: Address, path: str) -> None:
        self._address = address
        self._path = path
        self._buffer = b""
        self._parts: list[bytes] | None = None
        self.transport: asyncio.Transport | None = None
        self.is_open = False

    def on_open(self) -> None:
        """The handshake has succeeded."""

    def on_text(self, message: bytes) -> None:
        """A text message has come."""

    def on_end(self, error: Exception) -> None:
        """The socket is gone, or was never let in."""

    def send(self, message: bytes) -> None:
        """Send a text message; into nothing once the socket is gone."""
        if self.is_open:
            self._write(encode_frame(message))

    def close(self) -> None:
        """Close in order (1000). Safe to repeat."""
        if self.is_open:
            self._write(encode_frame((1000).to_bytes(2, "big"), CLOSE))
            self.is_open = False

    def cut(self) -> None:
        """Drop the connection without a word."""
        self.is_open = False
        if self.transport is not None:
            self.transport.abort()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by inheritance.
        self.transport = cast(asyncio.Transport, transport)
        without_delay(transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self.transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: {self._address.host}:{self._address.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        was_open, self.is_open = self.is_open, False
        self.on_end(ConnectionError(f"the socket {'broke' if was_open else 'was closed'}: {exc!r}"))

    def data_received(self, data: bytes) -> None:
        TRAFFIC.received += len(data)
        buffer = self._buffer + data if self._buffer else data
        if not self.is_open:
            self._buffer = buffer
            if not self._handshake():
                return
            buffer = self._buffer
        start = 0
        while (frame := parse_frame(buffer, start)) is not None:
            start = frame.end
            self._on_frame(frame)
        self._buffer = buffer[start:]

    def _handshake(self) -> bool:
        """Whether the socket is open now; what follows the head stays in the buffer."""
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found or self.transport is None or self.transport.is_closing():
            return False
        if not head.startswith(b"HTTP/1.1 101"):
            lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            self.on_end(Refused(head.split(b"\r\n")[0].decode(), float(lines.get(b"retry-after", b"1"))))
            self.transport.close()
            return False
        self._buffer = rest
        self.is_open = True
        self.on_open()
        return True

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode in {TEXT, CONTINUATION}:
            if frame.final and self._parts is None:
                self.on_text(frame.payload)
                return
            self._parts = [*(self._parts or []), frame.payload]
            if frame.final:
                message, self._parts = b"".join(self._parts), None
                self.on_text(message)
        elif frame.opcode == PING:
            self._write(encode_frame(frame.payload, PONG))
        elif frame.opcode == CLOSE:
            self._on_close(frame.payload)

    def _on_close(self, payload: bytes) -> None:
        if self.is_open:
            self._write(encode_frame(payload[:2], CLOSE))
            self.is_open = False
        code = int.from_bytes(payload[:2], "big")
        self.on_end(Refused(f"closed with {code}: {payload[2:].decode(errors='replace')}"))
        if self.transport is not None:
            self.transport.close()

    def _write(self, frame: bytes) -> None:
        if self.transport is not None:
            TRAFFIC.sent += len(frame)
            self.transport.write(frame)
