"""The socket to the cluster: connect, register, keep alive, and come back.

Promises: until told to stop it reconnects for ever, with full jitter so that a fleet does not return in step; an
answer leaves this process at most once per connection, and one that could not be sent is kept (512 of them, 32 MiB)
and sent after the next registration. What the peer sends cannot end the loop: a frame that makes no sense is logged.
"""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from aip import (
    ClientMessage,
    ClientMessageType,
    ClientType,
    ProtocolError,
    ServerMessage,
    ServerMessageType,
    TaskStatus,
    decode_server,
    encode,
    new_id,
    utc_now,
)
from aip.codec import loads
from clients.sockets import open_socket

__all__ = ["Backoff", "Handler", "Link", "Outbox"]

logger = logging.getLogger(__name__)

REGISTRATION_S = 15.0
SHOWN_CHARS = 300
MAX_PROFILES_IN_HAND = 4
CLOSE_RESTARTING = 1012
CLOSE_TRY_LATER = 1013
CLOSE_TOO_BIG = 1009


_random = random.SystemRandom().random


class Handler(Protocol):
    """What carries out the commands; nothing here may block."""

    def submit(self, message: ServerMessage) -> None:
        """Take a `command`."""

    def end_session(self, session_id: str | None) -> None:
        """A session is over: stop what runs of it."""


class _Refused(Exception):
    """The server answered the registration with an error."""


class Backoff:
    """Exponential delays with full jitter: anything between 0 and the ceiling, which doubles each time."""

    def __init__(self, base_s: float = 0.5, cap_s: float = 15.0, rng: Callable[[], float] = _random) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._rng = rng
        self._ceiling_s = base_s

    def next_s(self) -> float:
        """The next delay in seconds."""
        delay_s = self._rng() * self._ceiling_s
        self._ceiling_s = min(self._cap_s, self._ceiling_s * 2)
        return delay_s

    def reset(self) -> None:
        """Start from the base again."""
        self._ceiling_s = self._base_s


class Outbox:
    """Answers on their way to the socket, oldest first, each `response_id` at most once.

    Bounded: over 512 answers or 32 MiB the oldest are dropped, with a warning; the server may ask for them again.
    """

    def __init__(self, max_answers: int = 512, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._frames: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._filled = asyncio.Event()

    def put(self, response_id: str | None, frame: bytes) -> None:
        """Add an answer; one for the same `response_id` that has not left yet is replaced where it stands."""
        key = response_id if response_id is not None else new_id()
        self._bytes += len(frame) - len(self._frames.get(key, b""))
        self._frames[key] = frame
        while len(self._frames) > self._max_answers or (self._bytes > self._max_bytes and len(self._frames) > 1):
            dropped, old = self._frames.popitem(last=False)
            self._bytes -= len(old)
            logger.warning("too many answers wait for the connection: dropped that to %r", dropped)
        self._filled.set()

    async def first(self) -> tuple[str, bytes]:
        """The oldest answer, waiting for one; it stays until discarded. Cancelling is safe."""
        while not self._frames:
            self._filled.clear()
            await self._filled.wait()
        return next(iter(self._frames.items()))

    def discard(self, key: str, frame: bytes) -> None:
        """Remove an answer that was sent, unless another has taken its place meanwhile."""
        if self._frames.get(key) is frame:
            del self._frames[key]
            self._bytes -= len(frame)


class Link:
    """One device's connection. `run` is the whole of its life; cancelling `run` closes the socket with 1000.

    `profile` returns the metadata of a registration; it may block, and is called in a thread.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        handler: Handler,
        outbox: Outbox,
        profile: Callable[[], dict[str, Any]],
        api_key: str | None = None,
        heartbeat_s: float = 20.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._url = url
        self._client_id = client_id
        self._handler = handler
        self._outbox = outbox
        self._profile = profile
        self._api_key = api_key
        self._heartbeat_s = heartbeat_s
        self._backoff = backoff if backoff is not None else Backoff()
        self._profiling: set[asyncio.Task[None]] = set()
        self._sending: tuple[str, bytes] | None = None

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            try:
                await self._connect_once()
            except _Refused as exc:
                logger.warning("%s refused the registration: %s", self._url, exc)
            except ConnectionClosed as exc:
                logger.warning("disconnected from %s: %s", self._url, _shown(str(exc)))
            except (OSError, TimeoutError, WebSocketException) as exc:
                logger.warning("cannot reach %s: %s", self._url, _shown(str(exc) or type(exc).__name__))
            delay_s = self._backoff.next_s()
            logger.info("connecting again in %.1f s", delay_s)
            await asyncio.sleep(delay_s)

    async def _connect_once(self) -> None:
        """One connection from opening to its end. Raises what ended it."""
        metadata = await asyncio.to_thread(self._profile)
        socket = await open_socket(self._url, self._api_key)
        try:
            async with asyncio.timeout(REGISTRATION_S):
                await self._register(socket, metadata)
            self._backoff.reset()
            logger.info("registered as %r at %s", self._client_id, self._url)
            await self._serve(socket)
        finally:
            profiling = list(self._profiling)
            for task in profiling:
                task.cancel()
            await asyncio.gather(*profiling, return_exceptions=True)
            # 1000, unless the peer has closed with a code of its own; it takes 2 s at most.
            await socket.close()
            self._heed_close(socket.close_code)

    async def _register(self, socket: ClientConnection, metadata: dict[str, Any]) -> None:
        await socket.send(self._frame(ClientMessageType.REGISTER, metadata=metadata), text=True)
        while True:
            message = self._read(await socket.recv())
            if message is None:
                continue
            if message.type is ServerMessageType.ERROR:
                raise _Refused(_shown(message.error))
            if message.type is ServerMessageType.HEARTBEAT and message.status is TaskStatus.OK:
                return
            # It was sent before the acknowledgement, and nobody will send it again.
            self._dispatch(socket, message)

    async def _serve(self, socket: ClientConnection) -> None:
        """Receive, send and keep alive until one of the three ends."""
        self._sending = None
        tasks = [
            asyncio.create_task(self._receive(socket), name="receive"),
            asyncio.create_task(self._send_answers(socket), name="send answers"),
            asyncio.create_task(self._keep_alive(socket), name="heartbeats"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _receive(self, socket: ClientConnection) -> None:
        while True:
            message = self._read(await socket.recv())
            if message is not None:
                self._dispatch(socket, message)

    async def _send_answers(self, socket: ClientConnection) -> None:
        while True:
            self._sending = await self._outbox.first()
            # Cancelled or broken in here, the answer stays in the outbox for the next connection.
            await socket.send(self._sending[1], text=True)
            self._outbox.discard(*self._sending)
            self._sending = None

    async def _keep_alive(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            await socket.send(self._frame(ClientMessageType.HEARTBEAT), text=True)

    def _read(self, raw: str | bytes) -> ServerMessage | None:
        """The message, or None for a frame that this agent cannot use."""
        try:
            return decode_server(raw)
        except ProtocolError as exc:
            if (kind := _unknown_type(raw)) is not None:
                logger.debug("ignored a message of type %s", _shown(kind))
            else:
                logger.warning("ignored a malformed frame: %s", _shown(str(exc)))
            return None

    def _dispatch(self, socket: ClientConnection, message: ServerMessage) -> None:
        match message.type:
            case ServerMessageType.COMMAND:
                self._handler.submit(message)
            case ServerMessageType.TASK:
                logger.info("task %r: session %r", message.task_name, message.session_id)
            case ServerMessageType.TASK_END:
                logger.info("session %r ended: %s", message.session_id, message.status)
                self._handler.end_session(message.session_id)
            case ServerMessageType.ERROR:
                logger.warning("the server reports: %s", _shown(message.error))
            case ServerMessageType.DEVICE_INFO_REQUEST:
                self._send_profile(socket, message)
            case ServerMessageType.HEARTBEAT | ServerMessageType.DEVICE_INFO_RESPONSE:
                pass

    def _send_profile(self, socket: ClientConnection, message: ServerMessage) -> None:
        if len(self._profiling) >= MAX_PROFILES_IN_HAND:
            logger.warning("ignored a request for the profile: %d are in hand", len(self._profiling))
            return
        task = asyncio.create_task(self._answer_profile(socket, message), name="profile")
        self._profiling.add(task)
        task.add_done_callback(self._profiling.discard)

    async def _answer_profile(self, socket: ClientConnection, message: ServerMessage) -> None:
        metadata = await asyncio.to_thread(self._profile)
        frame = self._frame(
            ClientMessageType.DEVICE_INFO_RESPONSE,
            metadata=metadata,
            request_id=message.response_id,
            session_id=message.session_id,
        )
        try:
            await socket.send(frame, text=True)
        except ConnectionClosed:
            logger.debug("the connection ended before the profile was sent")

    def _frame(
        self,
        kind: ClientMessageType,
        *,
        metadata: dict[str, Any] | None = None,
        request_id: str | None = None,
        session_id: str | None = None,
    ) -> bytes:
        return encode(
            ClientMessage(
                type=kind,
                status=TaskStatus.OK,
                client_id=self._client_id,
                client_type=ClientType.DEVICE,
                session_id=session_id,
                request_id=request_id,
                timestamp=utc_now(),
                metadata=metadata,
            )
        )

    def _heed_close(self, code: int | None) -> None:
        if code in {CLOSE_RESTARTING, CLOSE_TRY_LATER}:
            self._backoff.reset()
        if code == CLOSE_TOO_BIG and self._sending is not None:
            # Kept, it would end every connection to come.
            logger.error("dropped the answer to %r: the server takes no frame of its size", self._sending[0])
            self._outbox.discard(*self._sending)


def _unknown_type(raw: str | bytes) -> str | None:
    """The `type` of a JSON object whose type is none that this agent knows."""
    try:
        data = loads(raw)
    except ProtocolError:
        return None
    kind = data.get("type", data.get("message_type")) if isinstance(data, dict) else None
    known = isinstance(kind, str) and kind.lower() in set(ServerMessageType)
    return kind if isinstance(kind, str) and not known else None


def _shown(text: str | None) -> str:
    """Text of the peer's as it may stand in one line of a log."""
    return repr((text or "")[:SHOWN_CHARS])
