"""The socket to the cluster: connect, register, keep alive, and come back.

Promises: until told to stop it reconnects for ever, with full jitter so that a fleet does not return in step: within
1 s where the node says that it restarts, not before the time that a server names, and only after half a minute where
another process has taken the id over. With the token of its last registration it takes its own place again; an
answer leaves this process at most once per connection, and one that could not be sent is kept and sent after the next
registration; a profile that changed is pushed; files go both ways between the other messages. What the peer sends
cannot end the loop: a frame that makes no sense is logged.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from aip_cluster.device.files.frames import file_frame
from aip_cluster.device.files.receiver import FileReceiver
from aip_cluster.device.files.sender import FileSender
from aip_cluster.device.outbox import Outbox
from aip_cluster.device.wire import Wire
from aip_cluster.protocol import (
    ClientMessage,
    ClientMessageType,
    ClientType,
    ProtocolError,
    ServerMessage,
    ServerMessageType,
    TaskStatus,
    decode_server,
    encode,
    utc_now,
)
from aip_cluster.protocol.backoff import Backoff
from aip_cluster.protocol.codec import loads
from aip_cluster.sockets import (
    LEFT_TO_ANOTHER_S,
    MOVE_SPREAD_S,
    MOVE_TO_ANOTHER_NODE,
    REGISTRATION_S,
    TAKEN_OVER,
    TRY_LATER,
    open_socket,
    resume_token_of,
    retry_after_s,
)

__all__ = ["Handler", "Link", "Profiles"]

logger = logging.getLogger(__name__)

SHOWN_CHARS = 300
MAX_BESIDE = 64
CLOSE_TOO_BIG = 1009
CLOSE_DUPLICATE_ID = 4009
# An id is held by our own broken connection until the node notices, and a cluster that cannot register anybody is
# waiting for its Redis: both soon over, so worth asking often.
SOON_CEILING_S = 2.0


class Handler(Protocol):
    """What carries out the commands; nothing here may block."""

    def submit(self, message: ServerMessage) -> None:
        """Take a `command`."""

    def end_session(self, session_id: str | None) -> None:
        """A session is over: stop what runs of it."""


class _Refused(Exception):
    """The server answered the registration with an error."""


class Profiles(Protocol):
    """Where the metadata of a registration comes from."""

    def published(self) -> tuple[int, dict[str, Any]]:
        """The profile that the cluster should have, and its version."""

    async def newer(self, version: int) -> tuple[int, dict[str, Any]]:
        """As `published`, once it is newer than `version`."""

    async def fresh(self) -> dict[str, Any]:
        """The profile of this moment."""


class Link:
    """One device's connection. `run` is the whole of its life; cancelling `run` closes the socket with 1000.

    `registered` is set from the first registration on.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        handler: Handler,
        outbox: Outbox,
        profiles: Profiles,
        sender: FileSender,
        receiver: FileReceiver,
        api_key: str | None = None,
        heartbeat_s: float = 20.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._url = url
        self._client_id = client_id
        self._handler = handler
        self._outbox = outbox
        self._profiles = profiles
        self._sender = sender
        self._receiver = receiver
        self._api_key = api_key
        self._heartbeat_s = heartbeat_s
        self._backoff = backoff if backoff is not None else Backoff()
        self.registered = asyncio.Event()
        # Answers that are made and sent beside the loop that receives, which must not wait for the peer to read.
        self._beside: set[asyncio.Task[None]] = set()
        self._sending: tuple[str, bytes] | None = None
        # Proves to the next node that we are who was registered before. A secret.
        self._resume_token: str | None = None

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
                if (least_s := retry_after_s(exc)) is not None:
                    self._backoff.at_least(least_s)
            delay_s = self._backoff.next_s()
            logger.info("connecting again in %.1f s", delay_s)
            await asyncio.sleep(delay_s)

    async def _connect_once(self) -> None:
        """One connection from opening to its end. Raises what ended it."""
        socket = await open_socket(self._url, self._api_key)
        wire = Wire(socket)
        registered = False
        try:
            async with asyncio.timeout(REGISTRATION_S):
                version = await self._register(socket, wire)
            registered = True
            self._backoff.reset()
            self.registered.set()
            logger.info("registered as %r at %s", self._client_id, self._url)
            await self._serve(socket, wire, version)
        finally:
            beside = list(self._beside)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await self._receiver.abort()
            # 1000, unless the peer has closed with a code of its own; it takes 2 s at most.
            await socket.close()
            self._heed_close(socket.close_code, registered=registered)

    async def _register(self, socket: ClientConnection, wire: Wire) -> int:
        """Register, and return the version of the profile that was told."""
        version, metadata = self._profiles.published()
        if self._resume_token is not None:
            metadata = {**metadata, "resume_token": self._resume_token}
        await wire.send(self._frame(ClientMessageType.REGISTER, metadata=metadata))
        while True:
            message = self._read(await socket.recv())
            if message is None:
                continue
            if message.type is ServerMessageType.ERROR:
                raise _Refused(_shown(message.error))
            if message.type is ServerMessageType.HEARTBEAT and message.status is TaskStatus.OK:
                self._resume_token = resume_token_of(message)
                return version
            # It was sent before the acknowledgement, and nobody will send it again.
            self._dispatch(wire, message)

    async def _serve(self, socket: ClientConnection, wire: Wire, version: int) -> None:
        """Receive, send and keep alive until one of them ends."""
        self._sending = None
        tasks = [
            asyncio.create_task(self._receive(socket, wire), name="receive"),
            asyncio.create_task(self._send_answers(wire), name="send answers"),
            asyncio.create_task(self._keep_alive(wire), name="heartbeats"),
            asyncio.create_task(self._push_profiles(wire, version), name="push profiles"),
            asyncio.create_task(self._sender.serve(wire), name="send files"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _receive(self, socket: ClientConnection, wire: Wire) -> None:
        while True:
            raw = await socket.recv()
            if isinstance(raw, bytes) and self._receiver.expects_chunk:
                answers = await self._receiver.on_chunk(raw)
            elif (frame := file_frame(raw)) is not None:
                answers = await self._receiver.on_frame(frame)
            else:
                answers = []
                message = self._read(raw)
                if message is not None:
                    self._dispatch(wire, message)
            for answer in answers:
                self._aside(wire.send(answer))

    async def _send_answers(self, wire: Wire) -> None:
        while True:
            self._sending = await self._outbox.first()
            # Cancelled or broken in here, the answer stays in the outbox for the next connection.
            await wire.send(self._sending[1])
            self._outbox.discard(*self._sending)
            self._sending = None

    async def _keep_alive(self, wire: Wire) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            await wire.send(self._frame(ClientMessageType.HEARTBEAT))

    async def _push_profiles(self, wire: Wire, version: int) -> None:
        while True:
            version, metadata = await self._profiles.newer(version)
            await wire.send(self._frame(ClientMessageType.DEVICE_INFO_RESPONSE, metadata=metadata))

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

    def _dispatch(self, wire: Wire, message: ServerMessage) -> None:
        match message.type:
            case ServerMessageType.COMMAND:
                self._handler.submit(message)
            case ServerMessageType.TASK:
                logger.info("task %r: session %r", message.task_name, message.session_id)
            case ServerMessageType.TASK_END:
                logger.info("session %r ended: %s", message.session_id, message.status)
                self._handler.end_session(message.session_id)
            case ServerMessageType.ERROR:
                if not self._sender.on_answer(message):
                    logger.warning("the server reports: %s", _shown(message.error))
            case ServerMessageType.HEARTBEAT:
                self._sender.on_answer(message)
            case ServerMessageType.DEVICE_INFO_REQUEST:
                self._aside(self._answer_profile(wire, message))
            case ServerMessageType.DEVICE_INFO_RESPONSE:
                pass

    def _aside(self, answering: Coroutine[Any, Any, None]) -> None:
        """Make and send an answer beside what else goes on; lost with the connection, and bounded."""
        if len(self._beside) >= MAX_BESIDE:
            answering.close()
            logger.warning("the server asks for more than it takes: an answer was dropped")
            return
        task = asyncio.create_task(answering, name="answer")
        self._beside.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._beside.discard(task)
        exc = None if task.cancelled() else task.exception()
        if exc is not None and not isinstance(exc, ConnectionClosed):
            logger.error("an answer could not be made", exc_info=exc)

    async def _answer_profile(self, wire: Wire, message: ServerMessage) -> None:
        frame = self._frame(
            ClientMessageType.DEVICE_INFO_RESPONSE,
            metadata=await self._profiles.fresh(),
            request_id=message.response_id,
            session_id=message.session_id,
        )
        await wire.send(frame)

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

    def _heed_close(self, code: int | None, *, registered: bool) -> None:
        if code in MOVE_TO_ANOTHER_NODE and registered:
            self._backoff.spread(MOVE_SPREAD_S)
        elif code in MOVE_TO_ANOTHER_NODE - {TRY_LATER}:
            self._backoff.reset()
        elif code in {TRY_LATER, CLOSE_DUPLICATE_ID}:
            self._backoff.at_most(SOON_CEILING_S)
        elif code == TAKEN_OVER:
            logger.error("another process has registered as %r: two devices must not share an id", self._client_id)
            self._resume_token = None
            self._backoff.at_least(LEFT_TO_ANOTHER_S)
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
