"""A WebSocket as the node reads and writes it: uvicorn's protocol and websockets' parser, and a way past both.

A peer that sends frames of any kind (messages, fragments, pings) faster than its pace is read more slowly, which it
feels as backpressure, and is closed with 4103 if it goes on. The small text messages that clients send are taken from
the stream here, and told at once to an application that listens (`hear`), in the turn in which they come; all other
frames are websockets'. What is sent is written as one frame.

Thousands of sockets are idle most of the time. What uvicorn keeps for each, and does not need once it is open (its
handshake, queues with room for many), is given up here: see `node.mailbox`.
"""

import asyncio
import struct
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.protocol import State
from websockets.streams import StreamReader

from node.gateway.closing import Close
from node.mailbox import Gate, Mailbox
from node.telemetry.metrics import Limit

if TYPE_CHECKING:
    from node.protocols import Config

try:
    from websockets.speedups import apply_mask
except ImportError:  # a build of websockets without its C code
    from websockets.utils import apply_mask

__all__ = ["WebSocketProtocol"]

# The parser takes a whole read at once, which may be tens of thousands of frames: so much of it at a time.
SLICE_BYTES = 8 * 1024
# Time for the close frame to arrive: closing with data unread resets the connection.
CLOSE_LINGER_S = 2.0
# A text message in one frame: its first byte, and the sizes from which on the length takes 2 or 8 bytes more.
FINAL_TEXT = 0x81
SHORT_FRAME = 126
MEDIUM_FRAME = 65_536
# What a client sends is masked: a bit beside the length, and four bytes before the text.
MASKED = 0x80
MASK_BYTES = 4
_MEDIUM_HEAD = struct.Struct("!BBH")
_LONG_HEAD = struct.Struct("!BBQ")


class _Reader(StreamReader):
    """What websockets' parser reads from. `between`: whether the next byte begins a frame."""

    between = False

    def at_eof(self) -> Generator[None, None, bool]:
        """Asked for by the parser before each frame."""
        self.between = True
        ended = yield from super().at_eof()
        self.between = False
        return ended


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that is read no faster than its pace."""

    # uvicorn's attributes as well as ours: a dictionary of so many takes four times the memory. One that a newer
    # uvicorn adds goes into a dictionary again.
    __slots__ = (
        *("config", "app", "loop", "logger", "root_path", "asgi_version", "app_state"),
        *("connections", "tasks", "default_headers", "transport", "server", "client", "scheme"),
        *("queue", "handshake_initiated", "handshake_complete", "close_sent", "disconnected", "close_timer"),
        *("close_timeout", "initial_response", "conn", "read_paused", "writable"),
        *("ping_interval", "ping_timeout", "ping_timer", "pong_timer", "pending_ping_payload", "ping_sent_at"),
        *("last_ping_rtt", "frames", "curr_msg_data_type", "request", "response", "scope"),
        *("_metrics", "_pace", "_frames_come", "_held", "_pause", "_given_up"),
        *("_reader", "hear", "_bounds"),
    )

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.queue: Mailbox[Any] = Mailbox(self.loop)  # type: ignore[assignment]
        self.writable: Gate = Gate()  # type: ignore[assignment]
        bounds = cast("Config", config).bounds
        self._bounds = bounds
        self._metrics = bounds.metrics
        self._pace = bounds.pace()
        self._frames_come = 0
        # What was read and may not be parsed yet: one read at most, since nothing is read meanwhile.
        self._held = b""
        self._pause: asyncio.TimerHandle | None = None
        self._given_up = False
        self.hear: Callable[[dict[str, Any]], bool] | None = None
        # In place of the reader that the parser has begun with.
        self.conn.reader = self._reader = _Reader()
        self.conn.parser = self.conn.parse()
        next(self.conn.parser)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The upgrade: the connection keeps its place among those of its address."""
        super().connection_made(transport)
        self._bounds.take(self.client)

    def start_keepalive(self) -> None:
        """The socket is open: from now on it is kept alive, and nobody asks for its handshake any more."""
        super().start_keepalive()
        # Emptied, not just let go: whoever has been given them, as the parser was, has them still.
        self.request.headers.clear()
        del self.request, self.response
        self.scope.clear()  # type: ignore[attr-defined]

    async def receive(self) -> Any:
        """The next message for the application. Cancelling is safe."""
        while self.queue.empty():
            await self.queue.filled()
        message = self.queue.take()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.transport.resume_reading()
        return message

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._bounds.give(self.client)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrives, piece by piece, until the pace says to pause."""
        if self._pause is not None:
            self._held += data
            return
        for start in range(0, len(data), SLICE_BYTES):
            rest = self._take_texts(data[start : start + SLICE_BYTES])
            if rest:
                super().data_received(rest)
            if self.transport.is_closing():
                return
            if self.conn.handshake_exc is not None and not self.handshake_initiated:
                self._refuse_handshake()
                return
            count, self._frames_come = self._frames_come, 0
            pause_s = self._pace.charge(count)
            if pause_s > 0:
                self._hold(data[start + SLICE_BYTES :], pause_s)
                return

    def write_text(self, payload: bytes) -> bool:
        """Send a text message as one frame (RFC 6455, section 5.2); False, and nothing sent, if that cannot be now.

        A message that is sent changes nothing in the state of the protocol: it need not pass through it.
        """
        if not self.handshake_complete or self.close_sent or self.disconnected or not self.writable.is_set():
            return False
        if self.conn.state is not State.OPEN or self.transport.is_closing():
            return False
        size = len(payload)
        if size < SHORT_FRAME:
            head = bytes((FINAL_TEXT, size))
        elif size < MEDIUM_FRAME:
            head = _MEDIUM_HEAD.pack(FINAL_TEXT, SHORT_FRAME, size)
        else:
            head = _LONG_HEAD.pack(FINAL_TEXT, SHORT_FRAME + 1, size)
        self.transport.write(head + payload)
        return True

    def _take_texts(self, data: bytes) -> bytes:
        """Take the text messages that `data` begins with, each whole in a small frame; returns what is left.

        As good as all that clients send are such. Their heads say nothing else than what is looked at here, so nothing
        of RFC 6455 is left to be checked but the encoding of the text. All others are websockets'.
        """
        conn, start, length = self.conn, 0, len(data)
        if not self._reader.between or conn.current_size is not None or conn.extensions or conn.state is not State.OPEN:
            return data
        while length - start >= 2 + MASK_BYTES and not self.close_sent:
            size, body = data[start + 1] - MASKED, start + 2 + MASK_BYTES
            if data[start] != FINAL_TEXT or not 0 <= size <= SHORT_FRAME:
                break
            if size == SHORT_FRAME:
                size, body = int.from_bytes(data[start + 2 : start + 4]), body + 2
            end = body + size
            if end > length or size > self.config.ws_max_size:
                break
            try:
                text = apply_mask(data[body:end], data[body - MASK_BYTES : body]).decode()
            except UnicodeDecodeError:
                break
            start = end
            self._frames_come += 1
            self._tell(text)
        return data[start:] if start < length else b""

    def _tell(self, text: str) -> None:
        """Tell a message to the application: at once if it listens and waits for nothing else."""
        message = {"type": "websocket.receive", "text": text}
        if self.hear is not None and self.queue.awaited() and self.hear(message):
            return
        self.queue.put_nowait(message)
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def handle_text(self, event: Frame) -> None:
        """A message, or its first fragment."""
        self._frames_come += 1
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """A binary message, or its first fragment."""
        self._frames_come += 1
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        """A fragment. Empty ones add nothing but an entry to a list that has no bound: they are dropped."""
        self._frames_come += 1
        if event.data or event.fin:
            super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answered, unless the peer does not read its answers: they would pile up."""
        self._frames_come += 1
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_pong(self, event: Frame) -> None:
        """A sign of life."""
        self._frames_come += 1
        super().handle_pong(event)

    def _hold(self, rest: bytes, pause_s: float) -> None:
        if self._given_up:
            return
        if self._pace.exhausted:
            self._close_flooder()
            return
        self._held = rest
        # Not uvicorn's pause: the application must not end it by taking a message.
        self.read_paused = False
        self.transport.pause_reading()
        self._pause = self.loop.call_later(pause_s, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        rest, self._held = self._held, b""
        self.data_received(rest)
        if self._pause is not None or self.transport.is_closing() or self._given_up:
            return
        if self.queue.empty() or self.close_sent:
            if not self.read_paused:
                self.transport.resume_reading()
        else:
            # From here on it is the application's: reading goes on once it has taken what came.
            self.read_paused = True

    def _close_flooder(self) -> None:
        reason = Close.TOO_MANY_MESSAGES.value
        self._metrics.refusals.labels(Limit.MESSAGES).inc()
        self._metrics.ws_closes.labels(reason.label).inc()
        self._given_up = True
        self.stop_keepalive()
        if self.close_sent:
            # The node has closed it already, and waited for the peer to do the same.
            self.transport.abort()
            return
        self.transport.pause_reading()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": reason.code, "reason": reason.text})
        self.conn.send_close(reason.code, reason.text)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(CLOSE_LINGER_S, self.transport.abort)

    def _refuse_handshake(self) -> None:
        # websockets has made an answer to a head that it does not take, and uvicorn sends only answers to requests.
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.handshake_complete = self.close_sent = True
        self.transport.close()
