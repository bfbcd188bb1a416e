"""One socket, registered for one device.

A link is opened once and never mended: when its socket breaks, `closed` becomes true and `on_lost` is called, once;
the channel that opened it decides whether another is opened.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from aip_cluster.constellation.errors import ConnectionLost, DeviceNotConnected, RegistrationRefused
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
from aip_cluster.protocol.features import RESUME
from aip_cluster.sockets import REGISTRATION_S, open_socket, resume_token_of

__all__ = ["DeviceLink"]

logger = logging.getLogger(__name__)


class DeviceLink:
    """A registered socket. Made by `open`; belongs to one event loop.

    `on_message` gets each message in order, `on_lost` the reason once the socket has broken; neither may block.
    """

    def __init__(
        self,
        socket: ClientConnection,
        client_id: str,
        device_id: str,
        *,
        heartbeat_s: float,
        on_message: Callable[[ServerMessage], None],
        on_lost: Callable[["DeviceLink", str], None],
    ) -> None:
        self._socket = socket
        self._client_id = client_id
        self._device_id = device_id
        self._heartbeat_s = heartbeat_s
        self._on_message = on_message
        self._on_lost = on_lost
        self._tasks: list[asyncio.Task[None]] = []
        self.closed = False
        # A secret: for the next registration, and for no log.
        self.resume_token: str | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        client_id: str,
        device_id: str,
        *,
        api_key: str | None,
        resume_token: str | None,
        heartbeat_s: float,
        on_message: Callable[[ServerMessage], None],
        on_lost: Callable[["DeviceLink", str], None],
    ) -> Self:
        """Connect and register as `client_id` for `device_id`.

        Raises ConnectionLost, caused by what ended the attempt, RegistrationRefused or DeviceNotConnected. Cancelling
        is safe: the socket is closed.
        """
        try:
            socket = await open_socket(url, api_key)
        except (OSError, TimeoutError, WebSocketException) as exc:
            raise ConnectionLost(f"cannot reach {url}: {exc or type(exc).__name__}") from exc
        link = cls(socket, client_id, device_id, heartbeat_s=heartbeat_s, on_message=on_message, on_lost=on_lost)
        try:
            async with asyncio.timeout(REGISTRATION_S):
                await link._register(resume_token)
        except BaseException as exc:
            await socket.close()
            if isinstance(exc, ConnectionClosed | TimeoutError):
                why = str(exc) or "no answer in time"
                raise ConnectionLost(f"the connection ended during registration: {why}") from exc
            raise
        link._tasks = [
            asyncio.create_task(link._receive(), name=f"receive {client_id}"),
            asyncio.create_task(link._keep_alive(), name=f"heartbeats {client_id}"),
        ]
        return link

    @property
    def close_code(self) -> int | None:
        """What the socket was closed with, None while it is open."""
        return self._socket.close_code

    async def close(self) -> None:
        """Close the socket with 1000, without calling `on_lost`. May be called again."""
        self.closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._socket.close()

    async def send(
        self,
        kind: ClientMessageType,
        *,
        status: TaskStatus = TaskStatus.OK,
        session_id: str | None = None,
        request: str | None = None,
        task_name: str | None = None,
        request_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Send a message. Raises ConnectionLost."""
        frame = encode(
            ClientMessage(
                type=kind,
                status=status,
                client_type=ClientType.CONSTELLATION,
                client_id=self._client_id,
                target_id=self._device_id,
                session_id=session_id,
                request=request,
                task_name=task_name,
                request_id=request_id,
                timestamp=utc_now(),
                metadata=metadata,
            )
        )
        try:
            await self._socket.send(frame, text=True)
        except ConnectionClosed as exc:
            raise ConnectionLost(f"the connection for {self._device_id!r} ended: {exc}") from exc

    async def _register(self, resume_token: str | None) -> None:
        metadata: dict[str, Any] = {"registration_time": utc_now(), "supported_features": [RESUME]}
        if resume_token is not None:
            metadata["resume_token"] = resume_token
        await self.send(ClientMessageType.REGISTER, metadata=metadata)
        while True:
            message = _read(await self._socket.recv())
            if message is None:
                continue
            if message.type is ServerMessageType.ERROR:
                text = message.error or "the server gave no reason"
                raise (DeviceNotConnected if "is not connected" in text else RegistrationRefused)(text)
            if message.type is ServerMessageType.HEARTBEAT and message.status is TaskStatus.OK:
                self.resume_token = resume_token_of(message)
                return

    async def _receive(self) -> None:
        reason = "its receiver stopped"
        try:
            while True:
                message = _read(await self._socket.recv())
                if message is not None:
                    self._on_message(message)
        except ConnectionClosed as exc:
            reason = str(exc)
        finally:
            if not self.closed:
                self.closed = True
                self._tasks[1].cancel()
                self._on_lost(self, f"the connection for {self._device_id!r} ended: {reason}")

    async def _keep_alive(self) -> None:
        # A broken socket is the receiver's to report.
        with contextlib.suppress(ConnectionLost):
            while True:
                await asyncio.sleep(self._heartbeat_s)
                await self.send(ClientMessageType.HEARTBEAT)


def _read(raw: str | bytes) -> ServerMessage | None:
    try:
        return decode_server(raw)
    except ProtocolError as exc:
        logger.warning("ignored a malformed frame: %r", str(exc)[:300])
        return None
