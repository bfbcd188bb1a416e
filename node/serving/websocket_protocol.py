"""A WebSocket as the node reads and writes it: uvicorn's protocol and websockets' parser, and a way past both.

A peer that sends frames of any kind (messages, fragments, pings) faster than its pace is read more slowly, which it
feels as backpressure, and is closed with 4103 if it goes on; one that sends bytes faster is only read more slowly. The
small text messages that clients send are taken from the stream here, and told at once to an application that listens
(`hear`), in the turn in which they come. Other messages are put together piece by piece
(`node.serving.incoming_message`): large ones only once there is memory for all of them (`node.serving.message_memory`).
Handshakes and control frames are websockets'. What is sent is written as one frame.

Thousands of sockets are idle most of the time. What uvicorn keeps for each, and does not need once it is open (its
handshake, queues with room for many), is given up here: see `node.serving.receive_queue`.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame
from websockets.protocol import State

from node.concurrency.parsing import LARGE_BYTES
from node.serving.close_codes import TOO_BIG, Close, CloseReason
from node.serving.connection_bounds import Config
from node.serving.handshakes import Handshakes
from node.serving.incoming_message import (
    ANNOUNCED,
    CONTROL,
    FINAL_TEXT,
    LARGE_TEXT,
    MASK_BYTES,
    MASKED,
    SHORT_FRAME,
    Incoming,
    Reader,
    apply_mask,
    text_head,
)
from node.serving.message_memory import Waiting
from node.serving.receive_queue import Gate, ReceiveQueue
from node.telemetry.metrics import Limit

__all__ = ["WebSocketProtocol"]

# The parser takes a whole read at once, which may be tens of thousands of frames: so much of it at a time.
SLICE_BYTES = 8 * 1024
# Time for the close frame to arrive: closing with data unread resets the connection.
CLOSE_LINGER_S = 2.0
# Smaller messages need no memory to be set apart for them.
SMALL_BYTES = 64 * 1024
# Time for a larger one: a while, and its size at a slow line's rate. It keeps memory from others.
MESSAGE_BASE_S = 15.0
LEAST_BYTES_PER_S = 256 * 1024
# Bytes are charged when so many have come.
CHARGE_BYTES = 64 * 1024


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
        *("_bounds", "_metrics", "_pace", "_frames_come", "_bytes_come", "_held", "_pause", "_given_up"),
        *("_reader", "_incoming", "_late", "_lent", "_seen", "_arriving", "max_bytes", "hear"),
    )

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.queue: ReceiveQueue[Any] = ReceiveQueue(self.loop)  # type: ignore[assignment]
        self.writable: Gate = Gate()  # type: ignore[assignment]
        bounds = self._bounds = cast(Config, config).bounds
        self._metrics = bounds.metrics
        self._pace = bounds.pace()
        self._frames_come = self._bytes_come = 0
        # The largest message that is taken: little, until it is known who sends it.
        self.max_bytes: int = config.ws_max_size
        # The message that is on its way in, if it is none that was taken at once; when it is late; and the memory of
        # those that the application is dealing with.
        self._incoming: Incoming | None = None
        self._late: asyncio.TimerHandle | None = None
        self._lent = self._seen = 0
        self._arriving = bounds.arriving_unregistered
        # What was read and may not be parsed yet: one read at most, since nothing is read meanwhile.
        self._held = b""
        self._pause: asyncio.Handle | Waiting | None = None
        self._given_up = False
        self.hear: Callable[[dict[str, Any]], bool] | None = None
        # uvicorn makes it, and has no setting for its class.
        self.conn.__class__ = Handshakes
        # In place of the reader that the parser has begun with.
        self.conn.reader = self._reader = Reader()
        self.conn.parser = self.conn.parse()
        next(self.conn.parser)

    def start_keepalive(self) -> None:
        """The socket is open: from now on it is kept alive, and nobody asks for its handshake any more."""
        super().start_keepalive()
        # Emptied, not just let go: whoever has been given them, as the parser was, has them still.
        self.request.headers.clear()
        del self.request, self.response
        self.scope.clear()  # type: ignore[attr-defined]

    def admit(self) -> None:
        """It is known who is at the other end: from now on messages may be large."""
        self.max_bytes = self._bounds.max_frame_bytes
        self._give_back()
        if self._incoming is not None and self._incoming.reserved:
            self._arriving.give(self._incoming.reserved)
            self._incoming.reserved = 0
        self._arriving = self._bounds.arriving

    @property
    def progress(self) -> int:
        """How much is there of the message that is on its way in."""
        return 0 if self._incoming is None else len(self._incoming.body)

    def is_occupied(self, since: int) -> bool:
        """Whether a pong may wait behind this node's reading no further, or behind a message of which something has
        come since its `progress` was that."""
        return self._pause is not None or self._lent > 0 or self.progress > since

    def keepalive_timeout(self) -> None:
        """No pong came in time: the peer is gone, unless it is in the midst of a large message."""
        if self.is_occupied(self._seen) and self.ping_timeout is not None:
            self._seen = self.progress
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
        else:
            super().keepalive_timeout()

    async def receive(self) -> Any:
        """The next message for the application. Cancelling is safe."""
        if self.queue.empty():
            # It is done with those before.
            self._give_back()
        while self.queue.empty():
            await self.queue.filled()
        message = self.queue.take()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.transport.resume_reading()
        return message

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and with it all that has come over it."""
        # Its HttpProtocol has taken it.
        self._bounds.give(self.client)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._held = b""
        self._forget_incoming()
        self._give_back()
        super().connection_lost(exc)
        # The parser and what it parses hold each other: thousands of such pairs would wait for the collector.
        self.conn.parser.close()
        self._reader.discard()

    def data_received(self, data: bytes) -> None:
        """Take what arrives, piece by piece, until the pace says to pause."""
        if self._pause is not None:
            self._held += data
            return
        if self._incoming is None and len(data) <= SLICE_BYTES:
            # As good as all reads are one small message.
            data = self._take_texts(data)
            if not data:
                self._charge(0, b"")
                return
        end, length = 0, len(data)
        while end < length:
            start, incoming = end, self._incoming
            end = min(length, start + (SLICE_BYTES if incoming is None else max(SLICE_BYTES, incoming.missing)))
            rest = self._take_frames(data[start:end])
            if self._waits_for_memory():
                self._held = rest + data[end:]
                return
            if self.transport.is_closing():
                return
            if self.conn.handshake_exc is not None and not self.handshake_initiated:
                self._refuse_handshake()
                return
            if not self._charge(end - start, data[end:]):
                return

    def _charge(self, size: int, rest: bytes) -> bool:
        """Count what was taken. False if `rest` is held now. (Small messages are bounded by their number.)"""
        count, self._frames_come = self._frames_come, 0
        pause_s = self._pace.charge(count)
        self._bytes_come += size
        if self._bytes_come >= CHARGE_BYTES:
            pause_s = max(pause_s, self._pace.charge_bytes(self._bytes_come))
            self._bytes_come = 0
        if pause_s <= 0:
            return True
        if not self.transport.is_closing():
            self._hold(rest, pause_s)
        return False

    def write_text(self, payload: bytes) -> bool:
        """Send a text message as one frame (RFC 6455, section 5.2); False, and nothing sent, if that cannot be now.

        A message that is sent changes nothing in the state of the protocol: it need not pass through it.
        """
        if not self.handshake_complete or self.close_sent or self.disconnected or not self.writable.is_set():
            return False
        if self.conn.state is not State.OPEN or self.transport.is_closing():
            return False
        self.transport.write(text_head(len(payload)) + payload)
        return True

    def _take_texts(self, data: bytes) -> bytes:
        """Take the text messages that `data` begins with, each whole in a small frame; returns what is left.

        As good as all that clients send are such. Their heads say nothing else than what is looked at here, so nothing
        of RFC 6455 is left to be checked but the encoding of the text.
        """
        conn, start, length = self.conn, 0, len(data)
        # As `_is_between`, which would be one call more for each message.
        if not self._reader.between or conn.current_size is not None or conn.extensions or conn.state is not State.OPEN:
            return data
        while length - start >= 2 + MASK_BYTES and not self.close_sent:
            size, body = data[start + 1] - MASKED, start + 2 + MASK_BYTES
            if data[start] != FINAL_TEXT or not 0 <= size <= SHORT_FRAME:
                break
            if size == SHORT_FRAME:
                size, body = int.from_bytes(data[start + 2 : start + 4]), body + 2
            end = body + size
            if end > length or size > self.max_bytes:
                break
            try:
                text = apply_mask(data[body:end], data[body - MASK_BYTES : body]).decode()
            except UnicodeDecodeError:
                break
            start = end
            self._frames_come += 1
            self._tell({"type": "websocket.receive", "text": text})
        return data[start:] if start < length else b""

    def _is_between(self) -> bool:
        """Whether the next byte begins a frame, as far as websockets knows, in a socket that is open."""
        conn = self.conn
        return self._reader.between and conn.current_size is None and not conn.extensions and conn.state is State.OPEN

    def _take_frames(self, data: bytes) -> bytes:
        """Take frames of any kind from `data`. Returns what has to wait: see `_pause`."""
        while data and not self.transport.is_closing():
            incoming = self._incoming
            if incoming is None:
                if not self._is_between():
                    super().data_received(data)
                    return b""
                data = self._take_texts(data)
                if not data:
                    return b""
                incoming = self._incoming = Incoming()
            data = self._take_frame(incoming, data)
            if self._waits_for_memory():
                return data
        return b""

    def _take_frame(self, incoming: Incoming, data: bytes) -> bytes:
        """Take as much of one frame as there is. Returns what is left."""
        if not incoming.missing:
            head, data = incoming.take_head(data)
            if head is None:
                return b""
            if head[0] & CONTROL:
                super().data_received(bytes(head))
                if incoming.done:
                    self._incoming = None
                return data
            if not self._begin(incoming, head):
                return data
        try:
            data = incoming.take(data)
            if not incoming.missing and (incoming.final or incoming.dropped):
                self._finish(incoming)
        except UnicodeDecodeError:
            self._forget_incoming()
            self.conn.send_close(CloseCode.INVALID_DATA)
            self.handle_parser_exception()
        return data

    def _begin(self, incoming: Incoming, head: bytearray) -> bool:
        """A data frame begins. False if its payload is not to be taken, or not yet."""
        self._frames_come += 1
        if (fault := incoming.begin(head)) != "":
            self._forget_incoming()
            self.conn.fail(CloseCode.PROTOCOL_ERROR, fault)
            self.handle_parser_exception()
            return False
        if incoming.size > self.max_bytes or self.close_sent:
            self._drop(incoming)
        elif incoming.size > SMALL_BYTES and not incoming.reserved:
            return self._reserve(incoming)
        return True

    def _waits_for_memory(self) -> bool:
        return self._pause is not None

    def _reserve(self, incoming: Incoming) -> bool:
        """Take memory for a whole message. False if that has to wait: nothing is read until then."""
        # Of fragments nobody says how many there will be.
        size = self.max_bytes if incoming.fragmented else incoming.size
        source = self._arriving

        def granted() -> None:
            if source is self._arriving:
                incoming.reserved = size
            else:
                # It waited among those who are not known, and is known by now.
                source.give(size)
            self._late = self.loop.call_later(MESSAGE_BASE_S + size / LEAST_BYTES_PER_S, self._close_late)
            if self._pause is not None:
                self._pause = self.loop.call_soon(self._go_on)

        waiting = source.take(size, granted)
        if waiting is None:
            granted()
            return True
        self._pause = waiting
        self.read_paused = False
        self.transport.pause_reading()
        return False

    def _finish(self, incoming: Incoming) -> None:
        """The message that was on its way in is whole."""
        incoming.check_end()
        body, dropped = incoming.body, incoming.dropped or self.close_sent
        is_text, self._lent = incoming.is_text, self._lent + incoming.reserved
        incoming.reserved = 0
        text = body.decode() if is_text and len(body) <= LARGE_BYTES else None
        self._forget_incoming()
        if dropped:
            return
        if text is not None:
            self._tell({"type": "websocket.receive", "text": text})
        elif is_text:
            self._queue({"type": "websocket.receive", LARGE_TEXT: body})
        else:
            self._queue({"type": "websocket.receive", "bytes": body})

    def _forget_incoming(self) -> None:
        """Nothing is on its way in any more."""
        incoming, self._incoming = self._incoming, None
        self._seen = 0
        if incoming is not None:
            self._free(incoming)

    def _give_back(self) -> None:
        """The application is done with what it was told."""
        if self._lent:
            size, self._lent = self._lent, 0
            self._arriving.give(size)

    def _free(self, incoming: Incoming) -> None:
        incoming.body = bytearray()
        if incoming.reserved:
            size, incoming.reserved = incoming.reserved, 0
            self._arriving.give(size)
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _drop(self, incoming: Incoming) -> None:
        """A message is too large: its socket is closed, and what is to come of it is read and not kept. Unread, it
        would make the connection break before the peer has seen why."""
        incoming.dropped = True
        self._free(incoming)
        if self.close_sent:
            return
        self._metrics.refusals.labels(Limit.MESSAGE_BYTES).inc()
        reason = CloseReason(TOO_BIG, f"a message may have {self.max_bytes} bytes at most", "message_too_big")
        self._close(reason, {ANNOUNCED: incoming.size})

    def _close_late(self) -> None:
        """A large message takes too long: it keeps memory from others."""
        self._late = None
        if self.read_paused or self._pause is not None:
            # It is this node that does not read.
            self._late = self.loop.call_later(MESSAGE_BASE_S, self._close_late)
        elif self._incoming is not None and not self.close_sent:
            self._incoming.dropped = True
            self._free(self._incoming)
            self._close(Close.MESSAGE_TOO_SLOW.value)

    def _tell(self, message: dict[str, Any]) -> None:
        """Tell a text message to the application: at once if it listens and waits for nothing else."""
        if self.hear is None or not self.queue.awaited() or not self.hear(message):
            self._queue(message)

    def _queue(self, message: dict[str, Any]) -> None:
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
        self._metrics.refusals.labels(Limit.MESSAGES).inc()
        self._given_up = True
        if self.close_sent:
            # The node has closed it already, and waited for the peer to do the same.
            self.stop_keepalive()
            self.transport.abort()
            return
        self.transport.pause_reading()
        self._close(Close.TOO_MANY_MESSAGES.value)

    def _close(self, reason: CloseReason, said: dict[str, Any] | None = None) -> None:
        """Close the socket; `said` is for the application only. The peer has a while to answer."""
        self._metrics.ws_closes.labels(reason.label).inc()
        self.stop_keepalive()
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": reason.code, "reason": reason.text, **(said or {})}
        )
        self.conn.send_close(reason.code, reason.text)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(CLOSE_LINGER_S, self.transport.abort)

    def _refuse_handshake(self) -> None:
        # websockets has made an answer to a head that it does not take, and uvicorn sends only answers to requests.
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.handshake_complete = self.close_sent = True
        self.transport.close()
