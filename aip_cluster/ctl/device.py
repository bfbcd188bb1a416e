"""A device that lives for one test: registers over a real socket, and answers each command with its parameters.

It speaks the protocol as any device does, and offers one tool, `echo`; it executes nothing on the machine it runs on.
"""

import asyncio
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection

from aip_cluster.protocol import (
    ClientMessage,
    ClientMessageType,
    Command,
    Result,
    ResultStatus,
    ServerMessage,
    ServerMessageType,
    TaskStatus,
    decode_server,
    encode,
    utc_now,
)
from aip_cluster.sockets import open_socket

__all__ = ["TOOL", "EchoDevice", "RegistrationRefused"]

TOOL = "echo"


class RegistrationRefused(Exception):
    """The node answered the registration with an error; the text is the node's."""


class EchoDevice:
    """An asynchronous context: registered inside of it, gone afterwards. `executed` counts the commands.

    Entering raises RegistrationRefused, OSError, TimeoutError or WebSocketException; cancelling closes the socket.
    """

    def __init__(self, url: str, device_id: str, api_key: str | None, *, timeout_s: float) -> None:
        self._url = url
        self._device_id = device_id
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._socket: ClientConnection | None = None
        self._serving: asyncio.Task[None] | None = None
        self.executed = 0

    async def __aenter__(self) -> Self:
        socket = self._socket = await open_socket(self._url, self._api_key)
        info = {"device_id": self._device_id, "platform": "linux"}
        try:
            async with asyncio.timeout(self._timeout_s):
                metadata = {"platform": "linux", "system_info": info}
                await _send(socket, self._message(ClientMessageType.REGISTER, metadata=metadata))
                answer = decode_server(await socket.recv())
            if answer.type is ServerMessageType.ERROR:
                raise RegistrationRefused(answer.error or "no reason was given")
        except BaseException:
            await socket.close()
            raise
        self._serving = asyncio.create_task(self._serve(socket), name=f"device {self._device_id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    async def _serve(self, socket: ClientConnection) -> None:
        async for frame in socket:
            message = decode_server(frame)
            if message.type is ServerMessageType.TASK:
                await _send(socket, self._repeated(message))
            elif message.type is ServerMessageType.COMMAND:
                await _send(socket, self._answered(message))

    def _repeated(self, task: ServerMessage) -> ClientMessage:
        # As UFO's client does: a task is asked for again, and its commands follow.
        return self._message(
            ClientMessageType.TASK,
            status=TaskStatus.CONTINUE,
            session_id=task.session_id,
            task_name=task.task_name,
            request=task.user_request,
        )

    def _answered(self, message: ServerMessage) -> ClientMessage:
        return self._message(
            ClientMessageType.COMMAND_RESULTS,
            status=message.status,
            session_id=message.session_id,
            prev_response_id=message.response_id,
            action_results=[self._execute(command) for command in message.actions or []],
        )

    def _execute(self, command: Command) -> Result:
        if command.tool_name != TOOL:
            return Result(status=ResultStatus.FAILURE, error=f"there is only {TOOL}", call_id=command.call_id)
        self.executed += 1
        return Result(status=ResultStatus.SUCCESS, result=command.parameters, call_id=command.call_id)

    def _message(self, kind: ClientMessageType, **fields: Any) -> ClientMessage:
        return ClientMessage(type=kind, client_id=self._device_id, timestamp=utc_now(), **fields)


async def _send(socket: ClientConnection, message: ClientMessage) -> None:
    await socket.send(encode(message), text=True)
