"""What stands between TCP and uvicorn's protocols: bounds on those who have said little, and on those who say too much.

uvicorn reads whatever arrives as fast as it arrives, for as long as it takes. Here a connection has a while to finish
the head of a request and a bound on its size; there is a bound on open connections, and who still owes a request makes
room for newcomers, so that probes get through while strangers hold on; a WebSocket that sends frames of any kind
(messages, fragments, pings) faster than its pace is read more slowly, which its sender feels as backpressure, and is
closed with 4103 if it goes on. Nothing here waits for Redis.

Thousands of sockets are idle most of the time. What uvicorn keeps for each, and does not need once it is open (its
handshake, queues with room for many), is given up here: see `node.mailbox`.
"""

import asyncio
import struct
from dataclasses import dataclass, field
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.protocol import State

from node.gateway.closing import Close
from node.mailbox import Gate, Mailbox
from node.pace import Pace
from node.telemetry.metrics import Limit, Metrics

__all__ = ["Bounds", "Config", "HttpProtocol", "WebSocketProtocol"]

HEAD_BYTES = 64 * 1024
# The parser takes a whole read at once, which may be tens of thousands of frames: so much of it at a time.
SLICE_BYTES = 8 * 1024
# Time for the close frame to arrive: closing with data unread resets the connection.
CLOSE_LINGER_S = 2.0
# A text message in one unmasked frame: its first byte, and the sizes from which on the length takes 2 or 8 bytes more.
FINAL_TEXT = 0x81
SHORT_FRAME = 126
MEDIUM_FRAME = 65_536
_MEDIUM_HEAD = struct.Struct("!BBH")
_LONG_HEAD = struct.Struct("!BBQ")


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


class _Cork:
    """What an answer is written to: its head waits for what follows in the same turn of the loop, to travel with it."""

    __slots__ = ("_began", "_flush_soon", "_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._began = False
        self._flush_soon: asyncio.Handle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """The head first, then whatever follows."""
        if self._flush_soon is not None:
            self._flush_soon.cancel()
            self._flush_soon = None
            self._transport.write(self._head + data)
        elif self._began:
            self._transport.write(data)
        else:
            self._began, self._head = True, data
            self._flush_soon = self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Close, behind what was written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._flush_soon is not None:
            self._flush_soon.cancel()
            self._flush_soon = None
            self._transport.write(self._head)


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
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A newcomer: over the bound, whoever has owed a request longest makes room, or it goes itself."""
        super().connection_made(transport)
        self._owe()
        if len(self.connections) > self._bounds.max_tcp_connections:
            next(iter(self._bounds.owing)).refuse(Limit.TCP_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._settle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What arrives; of a head, not more than the bound."""
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            if not self._is_working():
                self.send_400_response("The head of the request is too large.")
            self.refuse(Limit.HEAD_BYTES)

    def on_message_begin(self) -> None:
        """A request begins; on a connection that is used again the deadline begins with it."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        # While the one before is answered, the next is owed to nobody.
        if self._head_timer is None and not self._is_working():
            self._owe()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._settle()
        self._in_head = False
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.transport is self.transport:
            self.cycle.transport = cast(asyncio.Transport, _Cork(self.transport, self.loop))

    def on_response_complete(self) -> None:
        """Answered: the next request is owed, and the rest of a body that was answered before its end."""
        super().on_response_complete()
        if self._head_timer is None and not self._is_working() and not self.transport.is_closing():
            self._owe()

    def handle_websocket_upgrade(self) -> None:
        """From here on a WebSocketProtocol has the connection."""
        super().handle_websocket_upgrade()
        # The parser and this object hold each other: thousands of such pairs would wait for the collector.
        self.parser = None  # type: ignore[assignment]

    def refuse(self, limit: Limit) -> None:
        """Cut the connection: whoever has not asked yet needs no answer."""
        self._bounds.metrics.refusals.labels(limit).inc()
        self._settle()
        if not self.transport.is_closing():
            self.transport.abort()

    def _is_working(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _owe(self) -> None:
        self._bounds.owing[self] = None
        self._head_timer = self.loop.call_later(self._bounds.head_timeout_s, self.refuse, Limit.HEAD_TIMEOUT)

    def _settle(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
            self._bounds.owing.pop(self, None)


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
        bounds = cast(Config, config).bounds
        self._metrics = bounds.metrics
        self._pace = bounds.pace()
        self._frames_come = 0
        # What was read and may not be parsed yet: one read at most, since nothing is read meanwhile.
        self._held = b""
        self._pause: asyncio.TimerHandle | None = None
        self._given_up = False

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
            super().data_received(data[start : start + SLICE_BYTES])
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
