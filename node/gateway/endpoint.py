"""`/ws`: a socket's life from upgrade to close.

The first frame must be a registration; nothing is answered before it, and a socket that does not register in time is
closed. Then frames are handled one after another, in order, so that a flood slows only its sender. When the socket is
gone, for whatever reason, its registration is voided and its sessions are settled, also if Redis is away just then.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from aip_cluster.protocol import ClientMessage, ClientMessageType, ProtocolError, decode_client
from aip_cluster.protocol.codec import Scrub, decode_client_frame
from aip_cluster.protocol.envelope import envelope
from aip_cluster.protocol.errors import TooLarge
from aip_cluster.protocol.files import FileFrame
from aip_cluster.protocol.ids import now_ms
from node.concurrency.background import Background
from node.concurrency.parsing import LARGE_BYTES, Parsing
from node.connections.connection import Connection, Message, Receive, Send
from node.connections.keepalive import Keepalive
from node.gateway.admission import Admission, Place, TurnedAway
from node.gateway.disconnect import Disconnect
from node.gateway.handlers import Handlers
from node.gateway.registrar import Registrar, RegistrationRefused
from node.gateway.transfers import Transfers
from node.serving.auth import Auth
from node.serving.close_codes import Close
from node.serving.connection_bounds import REGISTRATION_BYTES
from node.serving.headers import headers_of
from node.serving.proxies import Proxies
from node.serving.web_guard import WebGuard
from node.serving.websocket_protocol import ANNOUNCED, LARGE_TEXT
from node.telemetry.metrics import Metrics
from shared_state.errors import StateUnavailable

__all__ = ["Endpoint", "deny"]

log = logging.getLogger(__name__)


# In a socket's scope.
PULSE = "aip.pulse"
# In what a socket told: what was made of it already, and when it came.
HEARD = "aip.heard"
Binary = bytes | bytearray
Frame = Binary | str

DENIED_LINGER_S = 0.1
# uvicorn reports a socket that broke without a close frame as 1005: only this code is a deliberate goodbye.
GOODBYE = 1000
RESTART_SPREAD_S = 5


class Endpoint:
    """The ASGI application of `/ws`."""

    def __init__(
        self,
        registrar: Registrar,
        disconnect: Disconnect,
        handlers: Handlers,
        transfers: Transfers,
        auth: Auth,
        metrics: Metrics,
        background: Background,
        admission: Admission,
        *,
        is_member: Callable[[], bool],
        web_guard: WebGuard,
        proxies: Proxies,
        register_timeout_s: float,
        send_queue_bytes: int,
        max_result_bytes: int,
        parsing: Parsing,
        scrub: Scrub | None,
    ) -> None:
        self._registrar = registrar
        self._disconnect = disconnect
        self._handlers = handlers
        self._transfers = transfers
        self._auth = auth
        self._metrics = metrics
        self._background = background
        self._admission = admission
        self._is_member = is_member
        self._web_guard = web_guard
        self._proxies = proxies
        self._register_timeout_s = register_timeout_s
        self._send_queue_bytes = send_queue_bytes
        self._max_result_bytes = max_result_bytes
        self._parsing = parsing
        # Takes out of what a device says what only the operator and the device may know.
        self._scrub = scrub
        self.draining = False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """One socket."""
        await receive()  # websocket.connect
        headers = headers_of(scope)
        refusal = self._web_guard.refuse(headers, http_version=scope["http_version"])
        if refusal is not None:
            log.warning("socket refused", extra={"peer": str(scope.get("client")), "reason": refusal.detail})
            await deny(send, *refusal)
            return
        if not self._auth.allows(scope["headers"], scope["query_string"]):
            log.warning("socket without a valid key", extra={"peer": str(scope.get("client"))})
            await deny(send, 401, "Missing or wrong API key")
            return
        if self.draining:
            # Behind a balancer the next node is asked at once; without one, this node may be back then.
            retry_after_s = secrets.randbelow(RESTART_SPREAD_S) + 1
            await deny(send, 503, "The node is shutting down", retry_after_s)
            return
        if not self._is_member():
            # It could register nobody. Refused now, a newcomer is offered to the other nodes; refused after the upgrade
            # it would come back through the balancer to the node with the fewest sockets: most likely this one.
            retry_after_s = secrets.randbelow(RESTART_SPREAD_S) + 1
            await deny(send, 503, "The node has lost the cluster", retry_after_s)
            return
        place = self._admission.enter(self._proxies.caller_of(scope.get("client"), headers))
        if isinstance(place, TurnedAway):
            log.debug(
                "socket refused by a limit", extra={"limit": place.limit.value, "retry_after_s": place.retry_after_s}
            )
            await deny(send, place.status, place.detail, place.retry_after_s)
            return
        # An open socket needs nothing of its handshake, and the scope is emptied with it.
        pulse = scope.get(PULSE)
        with place:
            await self._hold(pulse, receive, send, place)

    async def _hold(self, pulse: Keepalive | None, receive: Receive, send: Send, place: Place) -> None:
        await send({"type": "websocket.accept"})
        connection = Connection(
            send,
            metrics=self._metrics,
            queue_bound=self._send_queue_bytes,
            pulse=pulse,
            credential=self._auth.credential,
        )
        left_with = None
        try:
            if await self._register(connection, receive):
                place.registered()
                left_with = await self._serve(connection, receive)
        except OSError:
            log.debug("the peer disconnected", extra={"client_id": connection.client_id})
        finally:
            # A socket that this node closes, or that broke, leaves its client away for a while.
            in_order = left_with == GOODBYE and not connection.closed_here
            connection.closing = connection.closing or Close.UNAVAILABLE
            connection.abandon()
            await self._transfers.abort(connection)
            # Not cut short with the socket's task: the node waits for it, bounded, when it stops.
            leave = self._background.spawn(self._disconnect.leave(connection, in_order=in_order), "client-leave")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(leave)

    async def _register(self, connection: Connection, receive: Receive) -> bool:
        try:
            async with asyncio.timeout(self._register_timeout_s):
                event = await receive()
                frame = _frame_of(event) if event["type"] == "websocket.receive" else None
        except TimeoutError:
            self._metrics.registrations.labels("timeout").inc()
            return await self._refuse(
                connection, f"No registration within {self._register_timeout_s:g} s", Close.NOT_REGISTERED_IN_TIME
            )
        if frame is not None and self.draining:
            # It came in before the drain began. No error: nothing is wrong with it, it only is in the wrong place.
            connection.close(Close.RESTARTING)
            await connection.flushed()
        if frame is None or self.draining:
            return False
        try:
            if len(frame) > REGISTRATION_BYTES:
                raise ProtocolError(f"a registration may have {REGISTRATION_BYTES} bytes at most")
            message = decode_client(bytes(frame) if isinstance(frame, bytearray) else frame, scrub=self._scrub)
            if message.type is not ClientMessageType.REGISTER:
                raise ProtocolError("The first message must be a registration", field="type")
            self._metrics.messages_in[message.type].inc()
            async with asyncio.timeout(self._register_timeout_s), self._admission.registering:
                await self._registrar.register(connection, message)
        except ProtocolError as exc:
            self._metrics.registrations.labels("invalid").inc()
            return await self._refuse(connection, str(exc), Close.BAD_REGISTRATION)
        except RegistrationRefused as exc:
            self._metrics.registrations.labels(exc.label).inc()
            return await self._refuse(connection, str(exc), exc.close)
        except (StateUnavailable, TimeoutError) as exc:
            self._metrics.registrations.labels("unavailable").inc()
            why = str(exc) or "it took too long"
            return await self._refuse(connection, f"The cluster cannot register you now: {why}", Close.UNAVAILABLE)
        self._metrics.registrations.labels("accepted").inc()
        return True

    @staticmethod
    async def _refuse(connection: Connection, error: str, why: Close) -> bool:
        log.info("registration refused", extra={"client_id": connection.client_id, "error": error})
        connection.send_error(error)
        connection.close(why)
        await connection.flushed()
        return False

    async def _serve(self, connection: Connection, receive: Receive) -> int | None:
        """Returns the code that the peer closed the socket with."""
        connection.keepalive.listen(partial(self._hear, connection))
        try:
            while True:
                # An idle socket does not keep the last thing that was said over it.
                event = None
                event = await receive()
                if event["type"] != "websocket.receive":
                    if ANNOUNCED in event:
                        why = f"{event[ANNOUNCED]} bytes, at most {self._max_result_bytes}"
                        self._handlers.closed_as_too_large(connection, why)
                    code: int | None = event.get("code")
                    return code
                if HEARD in event or not await self._hear_any(connection, event):
                    await self._go_on(connection, *event[HEARD])
        finally:
            connection.keepalive.listen(None)

    async def _hear_any(self, connection: Connection, event: Message) -> bool:
        """As `_hear`, of large messages too: nothing that comes behind one is heard before it."""
        frame = _frame_of(event)
        if len(frame) <= LARGE_BYTES or (not _is_text(event) and self._transfers.expects_binary(connection)):
            return self._hear(connection, event)
        came_at, connection.last_seen_ms = time.perf_counter(), now_ms()
        self._metrics.received_bytes.inc(_size(frame))
        # What it is made of is kept no longer than the message is.
        event.clear()
        try:
            if len(frame) > self._max_result_bytes:
                raise TooLarge(f"{len(frame)} bytes, at most {self._max_result_bytes}")
            scrub = self._scrub if connection.is_device else None
            message = await self._parsing.parse(frame, partial(decode_client_frame, checked=True, scrub=scrub))
        except ProtocolError as exc:
            self._on_invalid(connection, frame, exc)
            return True
        return self._handle_at_once(connection, event, message, came_at)

    def _hear(self, connection: Connection, event: Message) -> bool:
        """Deal with what came. False if that has to wait for something: `_go_on` does it, with what `event` says then.

        Never raises.
        """
        came_at, connection.last_seen_ms = time.perf_counter(), now_ms()
        frame, metrics = _frame_of(event), self._metrics
        metrics.received_bytes.inc(_size(frame))
        if not isinstance(frame, str) and self._transfers.expects_binary(connection):
            metrics.messages_in["binary"].inc()
            event[HEARD] = frame, came_at
            return False
        try:
            message = decode_client_frame(frame, scrub=self._scrub if connection.is_device else None)
        except ProtocolError as exc:
            self._on_invalid(connection, frame, exc)
            return True
        return self._handle_at_once(connection, event, message, came_at)

    def _handle_at_once(
        self, connection: Connection, event: Message, message: ClientMessage | FileFrame, came_at: float
    ) -> bool:
        kind, metrics = message.type, self._metrics
        metrics.messages_in[kind].inc()
        if isinstance(message, ClientMessage):
            try:
                handled = self._handlers.handle_at_once(connection, message)
            except Exception:
                self._on_failure(connection, message)
                handled = True
            if handled:
                metrics.handled[kind].observe(time.perf_counter() - came_at)
                return True
        event[HEARD] = message, came_at
        return False

    def _on_invalid(self, connection: Connection, frame: Frame, exc: ProtocolError) -> None:
        self._metrics.messages_in["invalid"].inc()
        if isinstance(exc, TooLarge):
            self._handlers.handle_too_large(connection, envelope(frame), str(exc))
        else:
            connection.send_error(str(exc))

    async def _go_on(self, connection: Connection, heard: ClientMessage | FileFrame | Binary, came_at: float) -> None:
        if isinstance(heard, Binary):
            await self._transfers.on_binary(connection, heard)
            return
        if not isinstance(heard, ClientMessage):
            await self._transfers.on_header(connection, heard)
        else:
            try:
                await self._handlers.handle(connection, heard)
            except StateUnavailable as exc:
                connection.send_error(f"The cluster cannot serve this now: {exc}", session_id=heard.session_id)
            except Exception:
                self._on_failure(connection, heard)
        self._metrics.handled[heard.type].observe(time.perf_counter() - came_at)

    @staticmethod
    def _on_failure(connection: Connection, message: ClientMessage) -> None:
        log.exception("cannot handle a message", extra={"client_id": connection.client_id})
        connection.send_error("The message could not be handled", session_id=message.session_id)


def _size(frame: Frame) -> int:
    return len(frame) if not isinstance(frame, str) or frame.isascii() else len(frame.encode("utf-8", "surrogatepass"))


def _is_text(event: Message) -> bool:
    return event.get("text") is not None or LARGE_TEXT in event


def _frame_of(event: Message) -> Frame:
    text: str | None = event.get("text")
    if text is not None:
        return text
    data: Binary = event.get(LARGE_TEXT) or event.get("bytes") or b""
    return data


async def deny(send: Send, status: int, detail: str, retry_after_s: int | None = None) -> None:
    """Refuse a socket before its upgrade."""
    body = orjson.dumps({"detail": detail})
    with contextlib.suppress(OSError):
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if retry_after_s is not None:
            headers.append((b"retry-after", str(retry_after_s).encode()))
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    # Until the socket is gone, uvicorn 0.54 takes a denial for an unfinished handshake, and says so as an error.
    await asyncio.sleep(DENIED_LINGER_S)
