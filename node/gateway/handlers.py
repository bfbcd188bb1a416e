"""What a registered client may say, and what is done about it.

Identity comes from the connection, never from the frame: a frame that claims another client id or type is answered
with an error and not acted on. What a client may not do is refused before anything is touched.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aip_cluster.protocol import (
    ClientMessage,
    ClientMessageType,
    ProtocolError,
    ServerMessage,
    ServerMessageType,
    TaskStatus,
)
from node.connections.connection import Connection
from node.gateway.device_notes import DeviceNotes
from node.gateway.profile import system_info_of
from node.gateway.registrar import Registrar
from node.gateway.tasks import TaskIntake, target_of
from node.sessions.runner import Runner
from shared_state import State

__all__ = ["Handlers"]

log = logging.getLogger(__name__)

# UFO's clients serialise every default, so in these two types `client_type: device` is no claim.
_NO_CLAIM = frozenset({ClientMessageType.HEARTBEAT, ClientMessageType.ERROR})

# What may carry results; `result` is the documents' form.
_RESULTS = frozenset({"command_results", "task_end", "result"})

NOT_ITS_DEVICE = (
    "target_id: an orchestrator that registered without a target_id may ask only about devices that it has sent a task "
    "to over this socket: register with the device as target_id"
)


class Handlers:
    """One method per message type."""

    def __init__(
        self,
        state: State,
        registrar: Registrar,
        runner: Runner,
        tasks: TaskIntake,
        devices: DeviceNotes,
    ) -> None:
        self._state = state
        self._registrar = registrar
        self._runner = runner
        self._devices = devices
        # What never waits is done in the turn in which it came.
        self._at_once: dict[ClientMessageType, Callable[[Connection, ClientMessage], None]] = {
            ClientMessageType.HEARTBEAT: self._heartbeat,
            ClientMessageType.COMMAND_RESULTS: runner.on_results,
            ClientMessageType.TASK_END: runner.on_task_end,
            ClientMessageType.ERROR: self._error,
        }
        self._in_time: dict[ClientMessageType, Callable[[Connection, ClientMessage], Awaitable[None]]] = {
            ClientMessageType.TASK: tasks.take,
            ClientMessageType.DEVICE_INFO_REQUEST: self._device_info_request,
            ClientMessageType.DEVICE_INFO_RESPONSE: self._device_info_response,
        }

    def handle_at_once(self, connection: Connection, message: ClientMessage) -> bool:
        """Act on a message. False, and nothing done, if that has to wait for something: then it is for `handle`."""
        claim = self._false_claim(connection, message)
        if claim is not None:
            log.warning(
                "refused a frame with another client's id", extra={"client_id": connection.client_id, "claim": claim}
            )
            connection.send_error(claim, session_id=message.session_id)
            return True
        act = self._at_once.get(message.type)
        if act is not None:
            act(connection, message)
        elif message.type is ClientMessageType.REGISTER:
            connection.send_error("type: this socket is registered already", session_id=message.session_id)
        else:
            return False
        return True

    def handle_too_large(self, connection: Connection, said: dict[str, Any], why: str) -> None:
        """A message is above a bound; `said` is what is known of it. Results end their session: sent again, they would
        be above it again. Never waits."""
        kind, session_id = said.get("type", said.get("message_type")), said.get("session_id")
        session_id = session_id if isinstance(session_id, str) else None
        if not connection.is_device or not isinstance(kind, str) or kind.lower() not in _RESULTS:
            connection.send_error(f"message too large: {why}", session_id=session_id)
            return
        # In the documents' form, what is answered is named by `request_id`.
        answered = said.get("prev_response_id") or (said.get("request_id") if kind.lower() == "result" else None)
        of = ClientMessage(
            type=ClientMessageType.COMMAND_RESULTS,
            session_id=session_id,
            prev_response_id=answered if isinstance(answered, str) else None,
        )
        self._runner.on_too_large(connection, of, why)

    def closed_as_too_large(self, connection: Connection, why: str) -> None:
        """A socket was closed in the midst of a message above the bound of all messages. Never waits."""
        if connection.is_device:
            self._runner.on_too_large(connection, None, why)

    async def handle(self, connection: Connection, message: ClientMessage) -> None:
        """Act on a message that has to wait for something.

        Raises StateUnavailable; anything the client did wrong is answered here.
        """
        try:
            await self._in_time[message.type](connection, message)
        except ProtocolError as exc:
            connection.send_error(str(exc), session_id=message.session_id)

    @staticmethod
    def _false_claim(connection: Connection, message: ClientMessage) -> str | None:
        if message.client_id is not None and message.client_id != connection.client_id:
            return "client_id: this socket is registered under another client id"
        if message.type in _NO_CLAIM or "client_type" not in message.model_fields_set:
            return None
        if message.client_type is not connection.client_type:
            return f"client_type: this socket is registered as {connection.client_type.value}"
        return None

    # -- health ----------------------------------------------------------------------------------------------------
    def _heartbeat(self, connection: Connection, message: ClientMessage) -> None:  # noqa: ARG002
        connection.send(ServerMessage(type=ServerMessageType.HEARTBEAT))

    def _error(self, connection: Connection, message: ClientMessage) -> None:
        log.warning(
            "client reported an error",
            extra={"client_id": connection.client_id, "error": (message.error or "")[:500]},
        )
        if message.session_id is not None:
            message.status = TaskStatus.ERROR
            self._runner.on_task_end(connection, message)

    # -- device information ----------------------------------------------------------------------------------------
    async def _device_info_request(self, connection: Connection, message: ClientMessage) -> None:
        if connection.is_device:
            raise ProtocolError("only constellations may send device_info_request", field="type")
        target_id = target_of(connection, message)
        answer = ServerMessage(type=ServerMessageType.DEVICE_INFO_RESPONSE, response_id=message.request_id)
        # UFO's orchestrator is always bound to a device. One that is not reads no list of strangers, one by one: not
        # even whether they are connected.
        if not connection.target_id and not connection.asked.has_sent_to(target_id):
            answer.status, answer.error = TaskStatus.ERROR, NOT_ITS_DEVICE
            connection.send(answer)
            return
        found = await self._state.clients.get(target_id)
        if found is None:
            answer.status, answer.error = TaskStatus.ERROR, f"Device '{target_id}' is not connected"
        else:
            profile = found.profile or {}
            answer.result = self._devices.merged(target_id, system_info_of(profile) or profile)
        connection.send(answer)

    async def _device_info_response(self, connection: Connection, message: ClientMessage) -> None:
        if not connection.is_device:
            raise ProtocolError("only devices have device information", field="type")
        if not message.metadata:
            raise ProtocolError("must hold the profile", field="metadata")
        await self._registrar.update_profile(connection, message)
