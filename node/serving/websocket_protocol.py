"""A WebSocket as the node serves it: an asyncio protocol that uvicorn hands an upgraded connection to (`ws=`).

The opening handshake is websockets' (`node.serving.websocket_handshake`), the framing is ours
(`node.serving.websocket_frames`); here they meet the transport, the application (ASGI) and the bounds:

- A peer that sends frames of any kind faster than its pace is read more slowly, which it feels as backpressure, and is
  closed with 4103 if it goes on. One that sends bytes faster is only read more slowly.
- A large message is read once there is memory for all of it (`node.serving.message_room`).
- Nothing is read while a message waits for the application. A text is told at once, in the turn in which it comes, to
  an application that listens (`hear`) and waits for nothing else.

What a socket is doing is its `state`; see `State` for what leads from one to the next.
"""

import asyncio
import enum
import logging
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from node.serving import websocket_frames as frames
from node.serving.close_codes import RESTART, TOO_BIG, UNANSWERED, Close, CloseReason
from node.serving.connection_bounds import Config
from node.serving.message_room import MESSAGE_BASE_S, MessageRoom
from node.serving.pings import Pings
from node.serving.receive_queue import Gate, ReceiveQueue
from node.serving.websocket_handshake import Handshake, address
from node.telemetry.metrics import Limit

__all__ = ["ANNOUNCED", "LARGE_TEXT", "SOCKET", "Disconnected", "State", "WebSocketProtocol"]

# Keys of ASGI events, beside those of the specification: the UTF-8 of a large text message that is not decoded yet,
# and, in a disconnect, the announced size of a message that was refused.
LARGE_TEXT = "aip.large_text"
ANNOUNCED = "aip.announced_bytes"
# The extension in the scope of a socket that holds its WebSocketProtocol, for what ASGI has no message for.
SOCKET = "aip.socket"

# A read may be tens of thousands of frames: so much of it is taken before the pace is asked.
SLICE_BYTES = 8 * 1024
# Bytes are charged when so many have come.
CHARGE_BYTES = 64 * 1024
# Time for the close frame to arrive: closing with data unread resets the connection.
CLOSE_LINGER_S = 2.0
# Time for the peer to answer a close frame of the application's.
CLOSE_TIMEOUT_S = 10.0

_TEXT, _BINARY = int(frames.Opcode.TEXT), int(frames.Opcode.BINARY)

log = logging.getLogger(__name__)


class State(enum.Enum):
    """What a socket is doing (RFC 6455, section 4 and 7). It only goes forward."""

    # The application has not accepted or refused the handshake yet.
    CONNECTING = enum.auto()
    # Messages go both ways.
    OPEN = enum.auto()
    # The node has sent a close frame, and reads on for the peer's; only a bounded time is left.
    CLOSING = enum.auto()
    # Nothing is read or written any more: both have said goodbye, or the handshake was refused, or the peer is gone.
    CLOSED = enum.auto()


# An enumeration's member costs a call each time that its class is asked for it.
CONNECTING, OPEN, CLOSING, CLOSED = State


class Disconnected(OSError):
    """What an application sends cannot reach the peer any more."""


class WebSocketProtocol(asyncio.Protocol):
    """One WebSocket. uvicorn makes it, with these arguments, and calls `shutdown` when the server stops."""

    __slots__ = (
        *("_app", "_app_state", "_bounds", "_connections", "_default_headers", "_loop", "_tasks", "client"),
        *("_close_timer", "_handshake", "_pings", "_scope", "_seen", "state", "transport", "writable"),
        *("_bytes_come", "_held", "_pace", "_pause", "_reader", "_reading", "_room", "hear", "queue", "__weakref__"),
    )

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # Not documented by uvicorn, and what each of its protocols is given: `Config.loaded_app`, and of ServerState
        # `connections` (on whose members the server calls `shutdown`), `tasks` (which it waits for) and
        # `default_headers` (`Date`).
        self._app: Any = config.loaded_app
        self._connections: set[Any] = server_state.connections
        self._tasks = server_state.tasks
        self._default_headers = server_state.default_headers
        self._app_state = app_state
        self._loop = loop = _loop or asyncio.get_running_loop()
        bounds = self._bounds = cast(Config, config).bounds
        self.state = CONNECTING
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.client: tuple[str, int] | None = None
        # Gone once it is answered.
        self._handshake: Handshake | None = Handshake()
        self._scope: dict[str, Any] | None = None
        # What comes in. Messages may be small, until it is known who sends them.
        self._reader = frames.FrameReader(config.ws_max_size)
        self._room = MessageRoom(bounds.arriving_unregistered)
        self._pace = bounds.pace()
        self._bytes_come = 0
        self.hear: Callable[[dict[str, Any]], bool] | None = None
        self.queue: ReceiveQueue[dict[str, Any]] = ReceiveQueue(loop)
        # Whether the transport reads; what will end a pause in it that is the node's own wish, and what had been read
        # by then: one read at most.
        self._reading = True
        self._pause: asyncio.Handle | MessageRoom | None = None
        self._held = b""
        # What goes out.
        self.writable = Gate()
        self._close_timer: asyncio.TimerHandle | None = None
        self._pings = Pings(float(config.ws_ping_interval or 0), float(config.ws_ping_timeout or 0))
        # The `progress` when a pong was late last.
        self._seen = 0

    # -- what asyncio and uvicorn call ---------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is this protocol's from now on: so far it was its HttpProtocol's."""
        self.transport = cast(asyncio.Transport, transport)
        self.client = address(transport.get_extra_info("peername"))
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Take what arrives: first the request, from HttpProtocol, then frames."""
        if self.state is OPEN and self._pause is None:
            self._read(data)
        elif self.state is CONNECTING and self._scope is None:
            self._begin(data)
        elif self._pause is not None or self.state is CONNECTING:
            self._held += data
            self._settle_reading()
        elif self.state is CLOSING:
            self._read(data)

    def pause_writing(self) -> None:
        """The peer does not read."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """The peer has read."""
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """The connection is gone, and with it all that has come over it."""
        self._bounds.give(self.client)
        self._connections.discard(self)
        code = 1006 if self.state is CONNECTING else 1005
        self._end_handshake()
        self.state = CLOSED
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code})
        if isinstance(self._pause, asyncio.Handle):
            self._pause.cancel()
        self._pause = None
        self._held = b""
        self._reader.discard()
        self._room.give_up()
        self._room.handled()
        self._stop_timers()
        # Whoever waits to write waits for nothing now.
        self.writable.set()

    def shutdown(self) -> None:
        """The server stops: say so, and close."""
        if self._handshake is not None:
            self._refuse(self._handshake.refuse(500))
        elif self.state is OPEN:
            self._queue_disconnect(RESTART, "")
            self.transport.write(frames.encode_close(RESTART))
        self._close_transport()

    # -- what Keepalive calls ------------------------------------------------------------------------------------------
    def admit(self) -> None:
        """It is known who is at the other end: from now on messages may be large."""
        self._reader.max_bytes = self._bounds.max_frame_bytes
        self._reader.has_room = False
        self._room.move_to(self._bounds.arriving)

    @property
    def progress(self) -> int:
        """How many bytes there are of the message that is on its way in."""
        return self._reader.progress

    @property
    def is_reading(self) -> bool:
        """Whether what the peer sends is read now."""
        return self._reading

    @property
    def awaits_pong(self) -> bool:
        """Whether a ping was sent that no pong has come for."""
        return self._pings.awaits_pong

    def is_occupied(self, since: int) -> bool:
        """Whether a pong may wait behind this node's reading no further, or behind a message of which something has
        come since its `progress` was that."""
        return self._pause is not None or self._room.is_handling or self.progress > since

    def ping(self) -> None:
        """Send a ping now; the next one of the keep-alive is due a period after it."""
        if self.state is OPEN and not self.transport.is_closing():
            self.transport.write(frames.encode(frames.Opcode.PING, self._pings.begin(self.pong_is_late)))

    def pong_is_late(self) -> None:
        """No pong came in time: the peer is gone, unless it is in the midst of a large message."""
        if self.is_occupied(self._seen):
            self._seen = self.progress
            self._pings.wait_longer(self.pong_is_late)
        elif self.state is OPEN:
            self.transport.write(frames.encode_close(UNANSWERED, "keepalive ping timeout"))
            self._close_transport()
            # Who is gone reads nothing of what is still to be written.
            self._close_timer = self._loop.call_later(CLOSE_LINGER_S, self.transport.abort)

    def write_text(self, payload: bytes) -> bool:
        """Send a text message as one frame; False, and nothing sent, if that cannot be now."""
        if self.state is not OPEN or not self.writable.is_set() or self.transport.is_closing():
            return False
        self.transport.write(frames.encode(_TEXT, payload))
        return True

    # -- what the application calls (ASGI) -----------------------------------------------------------------------------
    async def receive(self) -> dict[str, Any]:
        """The next event for the application. Cancelling is safe."""
        if self.queue.empty():
            # It is done with those before.
            self._room.handled()
        while self.queue.empty():
            await self.queue.filled()
        event = self.queue.take()
        self._settle_reading()
        return event

    async def send(self, event: dict[str, Any]) -> None:
        """Take an event of the application's, once the peer has read what was written. Cancelling is safe.

        Raises Disconnected if the socket is closed, RuntimeError if the event is none that may come now.
        """
        await self.writable.wait()
        kind = event["type"]
        if self.state is OPEN and not self.transport.is_closing():
            if kind == "websocket.send":
                data, text = event.get("bytes"), event.get("text")
                opcode = _TEXT if data is None else _BINARY
                self.transport.write(frames.encode(opcode, (text or "").encode() if data is None else data))
            elif kind == "websocket.close":
                self._begin_close(event.get("code", 1000), event.get("reason") or "", CLOSE_TIMEOUT_S)
            else:
                raise RuntimeError(f"an open socket takes 'websocket.send' and 'websocket.close', not {kind!r}")
        elif self._handshake is None or self.transport.is_closing():
            raise Disconnected
        elif kind == "websocket.accept":
            self._accept(self._handshake, event)
        elif kind == "websocket.close":
            self._refuse(self._handshake.refuse(403))
        elif kind == "websocket.http.response.start":
            self._handshake.begin_denial(event["status"], event.get("headers", ()))
        elif kind == "websocket.http.response.body":
            self._handshake.add_to_denial(event.get("body", b""))
            if not event.get("more_body", False):
                self._refuse(self._handshake.deny())
        else:
            raise RuntimeError(f"a handshake is accepted, closed or answered, not {kind!r}")

    async def _run(self, scope: dict[str, Any]) -> None:
        try:
            await self._app(scope, self.receive, self.send)
            if self.state is CONNECTING:
                log.error("the application left a handshake without an answer")
        except Disconnected:
            pass
        except Exception:
            log.exception("the application of a socket failed")
        finally:
            if self._handshake is not None:
                self._refuse(self._handshake.refuse(500))
            if self.state is not CLOSING:
                self._close_transport()

    # -- handshake -----------------------------------------------------------------------------------------------------
    def _begin(self, data: bytes) -> None:
        """The head of the request is there, whole."""
        handshake = cast(Handshake, self._handshake)
        refusal = handshake.receive(data)
        if refusal is not None:
            self._refuse(refusal)
            return
        scope = self._scope = handshake.scope(self.transport) | {
            "client": self.client,
            "root_path": "",
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}, SOCKET: self},
        }
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self._loop.create_task(self._run(scope))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept(self, handshake: Handshake, event: dict[str, Any]) -> None:
        headers = [*self._default_headers, *event.get("headers", ())]
        self.transport.write(handshake.accept(headers, event.get("subprotocol")))
        # Emptied, not just let go: whoever has been given it has it still.
        cast(dict[str, Any], self._scope).clear()
        self._end_handshake()
        self.state = OPEN
        self._pings.schedule(self.ping)
        if self._held:
            self._pause = self._loop.call_soon(self._go_on)

    def _refuse(self, answer: bytes) -> None:
        """The handshake ends with this answer, and the connection with it."""
        self._queue_disconnect(1006, "")
        if not self.transport.is_closing():
            self.transport.write(answer)
        self._end_handshake()
        self._close_transport()

    def _end_handshake(self) -> None:
        """An open socket keeps nothing of it."""
        if self._handshake is not None:
            self._handshake.end()
        self._handshake = self._scope = None

    # -- reading -------------------------------------------------------------------------------------------------------
    def _read(self, data: bytes) -> None:
        """Take frames, slice by slice, until the pace says to pause or a message needs memory."""
        reader, at, length = self._reader, 0, len(data)
        while True:
            missing = reader.missing
            events, taken = reader.read(data[at : at + (SLICE_BYTES if missing < SLICE_BYTES else missing)])
            at += taken
            for event in events:
                if type(event) is not str:
                    self._take(event)
                elif self.state is OPEN:
                    if self._room.deadline is not None:
                        self._room.arrived()
                    # At once if the application listens, and waits for nothing else.
                    message = {"type": "websocket.receive", "text": event}
                    if self.hear is None or not self.queue.awaited() or not self.hear(message):
                        self._queue(message)
            if self._pause is not None:
                self._held = data[at:]
                return
            if self.state is CLOSED or not self._charge(taken, data, at):
                return
            # Of a message that has been given room, the head was read, and the rest may be nothing.
            if at >= length and not (events and type(events[-1]) is frames.NeedsRoom):
                return

    def _take(self, event: frames.Event) -> None:
        """Take what is no small text."""
        if isinstance(event, frames.Ping):
            # Unless the peer does not read its answers: they would pile up.
            if self.state is OPEN and self.writable.is_set():
                self.transport.write(frames.encode(frames.Opcode.PONG, event.payload))
        elif isinstance(event, frames.Pong):
            if self._pings.answered(event.payload) and self.state is OPEN:
                self._pings.schedule(self.ping)
        elif isinstance(event, frames.Goodbye | frames.Fault):
            if self.state is OPEN:
                self._queue_disconnect(event.code, event.reason)
                self.transport.write(frames.encode_close(event.code, event.reason))
            self._close_transport()
        elif isinstance(event, frames.TooLarge):
            self._bounds.metrics.refusals.labels(Limit.MESSAGE_BYTES).inc()
            reason = f"a message may have {self._reader.max_bytes} bytes at most"
            self._close(CloseReason(TOO_BIG, reason, "message_too_big"), {ANNOUNCED: event.size})
        elif isinstance(event, frames.NeedsRoom):
            self._make_room(event)
        elif self.state is OPEN:
            self._room.arrived()
            key = LARGE_TEXT if isinstance(event, frames.LargeText) else "bytes"
            self._queue({"type": "websocket.receive", key: cast(frames.Binary, event).body})

    def _queue(self, event: dict[str, Any]) -> None:
        self.queue.put_nowait(event)
        self._settle_reading()

    def _queue_disconnect(self, code: int, reason: str, said: dict[str, Any] | None = None) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason, **(said or {})})

    def _settle_reading(self) -> None:
        """Read, unless the node wants a pause, or the application has something to take first."""
        wanted = self._pause is None and (self.queue.empty() or self.state is CLOSING)
        if self.state is CONNECTING and self._held:
            wanted = False
        if wanted is self._reading or self.state is CLOSED or self.transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def _go_on(self) -> None:
        """A pause is over."""
        self._pause = None
        held, self._held = self._held, b""
        if self.state in {OPEN, CLOSING}:
            self._read(held)
        self._settle_reading()

    # -- bounds on what is read ----------------------------------------------------------------------------------------
    def _charge(self, size: int, data: bytes, at: int) -> bool:
        """Count what was taken. False if what is left of `data` is held now."""
        count, self._reader.frames = self._reader.frames, 0
        pause_s = self._pace.charge(count)
        self._bytes_come += size
        if self._bytes_come >= CHARGE_BYTES:
            pause_s = max(pause_s, self._pace.charge_bytes(self._bytes_come))
            self._bytes_come = 0
        if pause_s <= 0:
            return True
        if self._pace.exhausted:
            self._close_flooder()
        else:
            self._held = data[at:]
            self._pause = self._loop.call_later(pause_s, self._go_on)
        self._settle_reading()
        return False

    def _close_flooder(self) -> None:
        """It has pressed on for too long. Nothing more is read of it."""
        self._bounds.metrics.refusals.labels(Limit.MESSAGES).inc()
        if self.state is CLOSING:
            # It had its time to say goodbye.
            self._pings.stop()
            self.transport.abort()
            return
        self._close(Close.TOO_MANY_MESSAGES.value)
        self._pause = self._close_timer

    def _make_room(self, message: frames.NeedsRoom) -> None:
        """Take memory for a whole message, or pause until there is."""
        # Of fragments nobody says how many there will be.
        size = self._reader.max_bytes if message.size is None else message.size
        if self._room.take(size, granted=self._has_room, late=self._message_is_late):
            self._reader.has_room = True
        else:
            self._pause = self._room
            self._settle_reading()

    def _has_room(self, is_its_own: bool) -> None:
        self._reader.has_room = is_its_own
        self._pause = self._loop.call_soon(self._go_on)

    def _message_is_late(self) -> None:
        """A large message takes too long, and keeps memory from others."""
        if not self._reading:
            # It is this node that does not read.
            self._room.watch(MESSAGE_BASE_S, self._message_is_late)
        else:
            self._close(Close.MESSAGE_TOO_SLOW.value)

    # -- closing -------------------------------------------------------------------------------------------------------
    def _close(self, reason: CloseReason, said: dict[str, Any] | None = None) -> None:
        """Close the socket, if it is open, for breaking a bound; `said` is for the application only."""
        if self.state is not OPEN:
            return
        self._bounds.metrics.ws_closes.labels(reason.label).inc()
        self._begin_close(reason.code, reason.text, CLOSE_LINGER_S, said)

    def _begin_close(self, code: int, reason: str, linger_s: float, said: dict[str, Any] | None = None) -> None:
        """Send a close frame. The peer has that time to answer."""
        self._queue_disconnect(code, reason, said)
        self.transport.write(frames.encode_close(code, reason))
        self.state = CLOSING
        self._pings.stop()
        # What is to come is read past: unread, it would break the connection before the peer has seen why.
        self._reader.discard()
        self._room.give_up()
        if self._pause is self._room:
            self._pause = self._loop.call_soon(self._go_on)
        self._close_timer = self._loop.call_later(linger_s, self.transport.abort)
        self._settle_reading()

    def _close_transport(self) -> None:
        """Nothing is left to say. Safe to repeat."""
        self.state = CLOSED
        self._stop_timers()
        self.transport.close()

    def _stop_timers(self) -> None:
        self._pings.stop()
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
