"""One socket, registered for one device, and the answers that are awaited on it.

A link is opened once and never mended: when its socket breaks, everything that waits on it fails with
`ConnectionLost` at once, `closed` becomes true, and whoever needs the device opens another link.
"""

import asyncio
import contextlib
import logging
from typing import Any, Self

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
from clients.constellation.errors import (
    ConnectionLost,
    DeviceNotConnected,
    RegistrationRefused,
    RequestFailed,
    TaskRefused,
    TaskTimeout,
)
from clients.sockets import open_socket

__all__ = ["DeviceLink"]

logger = logging.getLogger(__name__)

REGISTRATION_S = 15.0


class DeviceLink:
    """A registered socket. Made by `open`; belongs to one event loop."""

    def __init__(self, socket: ClientConnection, client_id: str, device_id: str, heartbeat_s: float) -> None:
        self._socket = socket
        self._client_id = client_id
        self._device_id = device_id
        self._heartbeat_s = heartbeat_s
        self._acknowledged: dict[str, asyncio.Future[None]] = {}
        self._ended: dict[str, asyncio.Future[ServerMessage]] = {}
        self._informed: dict[str, asyncio.Future[ServerMessage]] = {}
        self._receiving: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None
        self.closed = False

    @classmethod
    async def open(cls, url: str, client_id: str, device_id: str, *, api_key: str | None, heartbeat_s: float) -> Self:
        """Connect and register as `client_id` for `device_id`.

        Raises ConnectionLost, RegistrationRefused or DeviceNotConnected. Cancelling is safe: the socket is closed.
        """
        try:
            socket = await open_socket(url, api_key)
        except (OSError, TimeoutError, WebSocketException) as exc:
            raise ConnectionLost(f"cannot reach {url}: {exc}") from exc
        link = cls(socket, client_id, device_id, heartbeat_s)
        try:
            async with asyncio.timeout(REGISTRATION_S):
                await link._register()
        except BaseException as exc:
            await socket.close()
            if isinstance(exc, ConnectionClosed | TimeoutError):
                raise ConnectionLost(f"the connection ended during registration: {exc}") from exc
            raise
        link._receiving = asyncio.create_task(link._receive(), name=f"receive {client_id}")
        link._beating = asyncio.create_task(link._keep_alive(), name=f"heartbeats {client_id}")
        return link

    async def run(
        self,
        session_id: str,
        request: str,
        *,
        task_name: str,
        metadata: dict[str, Any],
        acknowledge_s: float,
        timeout_s: float | None,
    ) -> ServerMessage:
        """Send a task and wait for its end.

        Raises TaskRefused, ConnectionLost, or TaskTimeout if it is not acknowledged within `acknowledge_s` or has
        not ended within `timeout_s`. Cancelling forgets the task here; the server goes on with it.
        """
        if session_id in self._ended:
            raise ValueError(f"session {session_id!r} is running already")
        loop = asyncio.get_running_loop()
        acknowledged: asyncio.Future[None] = loop.create_future()
        ended: asyncio.Future[ServerMessage] = loop.create_future()
        self._acknowledged[session_id], self._ended[session_id] = acknowledged, ended
        try:
            await self._send(
                ClientMessageType.TASK,
                status=TaskStatus.CONTINUE,
                session_id=session_id,
                request=request,
                task_name=task_name,
                metadata=metadata or None,
            )
            either: list[asyncio.Future[Any]] = [acknowledged, ended]
            await asyncio.wait(either, timeout=acknowledge_s, return_when=asyncio.FIRST_COMPLETED)
            if not acknowledged.done() and not ended.done():
                raise TaskTimeout(f"the task was not acknowledged within {acknowledge_s:g} s")
            await asyncio.wait([ended], timeout=timeout_s)
            if not ended.done():
                raise TaskTimeout(f"the task did not end within {timeout_s:g} s")
            return ended.result()
        finally:
            del self._acknowledged[session_id], self._ended[session_id]
            # Looked at here, so that an error nobody waits for any more is not reported as lost.
            if ended.done():
                ended.exception()

    async def device_info(self, timeout_s: float) -> Any:
        """What the server knows about the device. Raises RequestFailed or ConnectionLost. Cancelling is safe."""
        request_id = new_id()
        answered = self._informed[request_id] = asyncio.get_running_loop().create_future()
        try:
            await self._send(ClientMessageType.DEVICE_INFO_REQUEST, request_id=request_id)
            await asyncio.wait([answered], timeout=timeout_s)
            if not answered.done():
                raise RequestFailed(f"no device information within {timeout_s:g} s")
            message = answered.result()
        finally:
            del self._informed[request_id]
            if answered.done():
                answered.exception()
        if message.status in {TaskStatus.ERROR, TaskStatus.FAILED} or message.error:
            raise RequestFailed(message.error or "the server has no information about the device")
        return message.result

    async def close(self, reason: str = "the client was closed") -> None:
        """Fail what waits, and close the socket with 1000. May be called again."""
        self._fail(reason)
        tasks = [task for task in (self._receiving, self._beating) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._socket.close()

    async def _register(self) -> None:
        await self._send(ClientMessageType.REGISTER, metadata={"registration_time": utc_now()})
        while True:
            message = _read(await self._socket.recv())
            if message is None:
                continue
            if message.type is ServerMessageType.ERROR:
                text = message.error or "the server gave no reason"
                raise (DeviceNotConnected if "is not connected" in text else RegistrationRefused)(text)
            if message.type is ServerMessageType.HEARTBEAT and message.status is TaskStatus.OK:
                return

    async def _receive(self) -> None:
        reason = "its receiver stopped"
        try:
            while True:
                message = _read(await self._socket.recv())
                if message is not None:
                    self._dispatch(message)
        except ConnectionClosed as exc:
            reason = str(exc)
        finally:
            self._fail(f"the connection for {self._device_id!r} ended: {reason}")

    async def _keep_alive(self) -> None:
        # A broken socket is the receiver's to report.
        with contextlib.suppress(ConnectionLost):
            while True:
                await asyncio.sleep(self._heartbeat_s)
                await self._send(ClientMessageType.HEARTBEAT)

    def _dispatch(self, message: ServerMessage) -> None:
        session_id = message.session_id or ""
        match message.type:
            case ServerMessageType.HEARTBEAT:
                _resolve(self._acknowledged.get(session_id), None)
            case ServerMessageType.TASK_END:
                _resolve(self._ended.get(session_id), message)
            case ServerMessageType.DEVICE_INFO_RESPONSE:
                _resolve(self._informed.get(message.response_id or ""), message)
            case ServerMessageType.ERROR if session_id in self._ended:
                _reject(self._ended[session_id], TaskRefused(message.error or "the server gave no reason"))
            case ServerMessageType.ERROR if (message.response_id or "") in self._informed:
                _resolve(self._informed[message.response_id or ""], message)
            case ServerMessageType.ERROR:
                logger.warning("the server reports for %r: %r", self._device_id, (message.error or "")[:300])
            case _:
                logger.debug("ignored a %s", message.type)

    async def _send(
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

    def _fail(self, reason: str) -> None:
        self.closed = True
        if self._beating is not None:
            self._beating.cancel()
        for future in [*self._ended.values(), *self._informed.values()]:
            _reject(future, ConnectionLost(reason))


def _read(raw: str | bytes) -> ServerMessage | None:
    try:
        return decode_server(raw)
    except ProtocolError as exc:
        logger.warning("ignored a malformed frame: %r", str(exc)[:300])
        return None


def _resolve(future: "asyncio.Future[Any] | None", value: Any) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _reject(future: asyncio.Future[ServerMessage], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
