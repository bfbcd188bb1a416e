"""One registered socket: who it is, and the bounded queue of what is still to be sent to it.

Sending never waits: a frame is written at once, or, if the peer does not read, goes into a queue that one short-lived
task empties, so that a slow reader delays nobody. A queue over its bound closes the socket with its own code, and the
client's messages wait in its inbox.
The identity given at registration holds for the socket's life.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from aip_cluster.protocol import ClientType, ServerMessage, ServerMessageType, TaskStatus, encode, new_id, utc_now
from aip_cluster.protocol.ids import now_ms
from node.connections.asked_sessions import AskedSessions
from node.connections.connection_state import ConnectionState
from node.connections.keepalive import Keepalive
from node.serving.close_codes import Close
from node.telemetry.metrics import Metrics

__all__ = ["Connection", "Message", "Receive", "Send"]

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

ENDED_TASKS_BOUND = 64
CLOSE_GRACE_S = 5.0


class Connection:
    """A client's socket on this node."""

    __slots__ = (
        "__weakref__",
        "_asked",
        "_bytes",
        "_cut_timer",
        "_flusher",
        "_held",
        "_metrics",
        "_outbox",
        "_queue_bound",
        "_send",
        "client_id",
        "client_type",
        "closing",
        "confirming",
        "connection_id",
        "credential",
        "ended_tasks",
        "features",
        "generation",
        "handed",
        "keepalive",
        "last_seen_ms",
        "payload_format",
        "platform",
        "profile",
        "recognises_repeats",
        "since_ms",
        "state",
        "taken",
        "target_id",
        "task_sent",
        "token_hash",
    )

    def __init__(
        self, send: Send, *, metrics: Metrics, queue_bound: int, pulse: Keepalive | None = None, credential: str = ""
    ) -> None:
        self.keepalive = pulse or Keepalive()
        self._cut_timer: asyncio.TimerHandle | None = None
        self._send = send
        self._metrics = metrics
        self._queue_bound = queue_bound
        self._outbox: deque[tuple[str | bytes, int]] | None = None
        self._bytes = 0
        self._flusher: asyncio.Task[None] | None = None
        self._held: asyncio.Event | None = None
        self.connection_id = new_id()
        # What the client showed to be let in, as a hash.
        self.credential = credential
        # The hash of the resume token that was given to this connection.
        self.token_hash = ""
        # Of the registration: steps of its sessions carry it, and those of a newer one win.
        self.generation = 0
        # A command that was sent before may be sent again under its id: this very process answers from memory.
        self.recognises_repeats = False
        self.client_id = ""
        self.client_type = ClientType.DEVICE
        self.target_id = ""
        self.platform = ""
        self.features: frozenset[str] = frozenset()
        self.payload_format = False
        # As JSON, which is a fraction of the size of the objects: needed again only if Redis loses its data.
        self.profile = b"{}"
        self.since_ms = self.last_seen_ms = now_ms()
        self.closing: Close | None = None
        self.state = ConnectionState.NEW
        # Set once the newest task for this socket was sent, or turned out to be over.
        self.task_sent: asyncio.Event | None = None
        # Inbox entries handed over whose removal is not confirmed yet, and sessions begun whose end is not stored yet.
        self.taken: set[str] = set()
        # Those entries that are to be removed, and whether somebody is at it.
        self.handed: list[str] = []
        self.confirming = False
        # Most clients ask for nothing: made with the first task.
        self._asked: AskedSessions | None = None
        # Names of tasks that ended lately: a late echo of one must not start it again.
        self.ended_tasks: deque[str] = deque(maxlen=ENDED_TASKS_BOUND)

    @property
    def is_device(self) -> bool:
        """Whether tasks may be run on this client."""
        return self.client_type is ClientType.DEVICE

    @property
    def asked(self) -> AskedSessions:
        """The sessions that this client asked for."""
        self._asked = self._asked or AskedSessions()
        return self._asked

    @property
    def awaits_ends(self) -> bool:
        """Whether the client waits for the end of a session that it asked for."""
        return self._asked is not None and self._asked.waiting > 0

    @property
    def closed_here(self) -> bool:
        """Whether this node began to close the socket, and did not just find it broken."""
        return self._cut_timer is not None

    @property
    def has_unsent(self) -> bool:
        """Whether something that was queued has not been written into the socket yet."""
        return self._outbox is not None

    @property
    def queued_bytes(self) -> int:
        """How much is not sent yet."""
        return self._bytes

    # -- about to be moved -----------------------------------------------------------------------------------------
    @property
    def held(self) -> bool:
        """Whether no further step of a session is to be begun over this socket."""
        return self._held is not None

    def hold(self) -> None:
        """Begin no further step over this socket: its client is to move to another node."""
        self._held = self._held or asyncio.Event()

    def release(self) -> None:
        """The client stays after all."""
        if self._held is not None:
            self._held.set()
            self._held = None

    async def released(self) -> None:
        """Wait until steps may be begun over this socket; for ever, if its client moves. Cancelling is safe."""
        while self._held is not None:
            await self._held.wait()

    # -- sending ---------------------------------------------------------------------------------------------------
    def send(self, message: ServerMessage) -> None:
        """Queue a message; sets `response_id` and `timestamp` where they are missing. Never waits, never raises."""
        if message.response_id is None:
            message.response_id = new_id()
        if message.timestamp is None:
            message.timestamp = utc_now()
        self._metrics.messages_out[message.type].inc()
        self.send_raw(encode(message))

    def send_error(self, error: str, *, session_id: str | None = None, request_id: str | None = None) -> None:
        """Tell the client what it did wrong."""
        self.send(
            ServerMessage(
                type=ServerMessageType.ERROR,
                status=TaskStatus.ERROR,
                error=error,
                session_id=session_id,
                response_id=request_id,
            )
        )

    def send_fields(self, kind: ServerMessageType, fields: dict[str, Any]) -> None:
        """As `send`, of fields that are none of them null; `kind` is their type."""
        self._metrics.messages_out[kind].inc()
        self.send_raw(orjson.dumps(fields))

    def send_raw(self, frame: bytes, *, binary: bytes | None = None) -> None:
        """Queue bytes that are a message already, and a binary frame right behind it. Never waits, never raises."""
        if self.closing is not None:
            return
        size = len(frame)
        if self._outbox is None and binary is None and size <= self._queue_bound and self.keepalive.write(frame):
            self._metrics.sent_bytes.inc(size)
            return
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append((frame.decode(), size))
        self._bytes += size
        if binary is not None:
            self._outbox.append((binary, len(binary)))
            self._bytes += len(binary)
        self._metrics.sent_bytes.inc(size + len(binary or b""))
        if self._bytes > self._queue_bound:
            log.warning("slow consumer", extra={"client_id": self.client_id, "queued_bytes": self._bytes})
            self._outbox.clear()
            self.close(Close.SLOW_CONSUMER)
        elif self._flusher is None:
            self._flusher = asyncio.get_running_loop().create_task(self._flush(), name="ws-flush")

    def close(self, why: Close) -> None:
        """Close the socket after what is queued. The receive loop then sees the disconnect. Safe to repeat."""
        if self.closing is None:
            self.closing = why
            # A peer that reads nothing lets no close frame out either: then the socket is cut.
            self._cut_timer = asyncio.get_running_loop().call_later(CLOSE_GRACE_S, self.keepalive.cut)
            self._metrics.ws_closes.labels(why.value.label).inc()
            if self._flusher is None:
                self._flusher = asyncio.get_running_loop().create_task(self._flush(), name="ws-flush")

    async def flushed(self) -> None:
        """Wait until nothing is left to send, or the socket is gone."""
        if self._flusher is not None:
            await asyncio.wait([self._flusher])

    def abandon(self) -> None:
        """Stop sending: the socket is gone."""
        if self._cut_timer is not None:
            self._cut_timer.cancel()
        if self._flusher is not None:
            self._flusher.cancel()

    async def _flush(self) -> None:
        try:
            while self._outbox:
                frame, size = self._outbox.popleft()
                kind = "bytes" if isinstance(frame, bytes) else "text"
                await self._send({"type": "websocket.send", kind: frame})
                self._bytes -= size
            if self.closing is not None:
                reason = self.closing.value
                await self._send({"type": "websocket.close", "code": reason.code, "reason": reason.text})
        except (OSError, RuntimeError):
            # uvicorn raises ClientDisconnected, an OSError, once the peer is gone; the receive loop tells the rest.
            self.closing = self.closing or Close.UNAVAILABLE
        finally:
            self._flusher = None
            self._outbox = None
            self._bytes = 0
