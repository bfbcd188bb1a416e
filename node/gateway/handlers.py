"""What a registered client may say, and what is done about it.

Identity comes from the connection, never from the frame: a frame that claims another client id or type is answered
with an error and not acted on. What a client may not do is refused before anything is touched.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aip import (
    ClientMessage,
    ClientMessageType,
    Command,
    ProtocolError,
    ServerMessage,
    ServerMessageType,
    TaskStatus,
    new_id,
)
from aip.ids import check_client_id, check_session_id, check_task_path
from node.devices import DeviceNotes
from node.gateway.connection import Connection
from node.gateway.profile import system_info_of
from node.gateway.registrar import Registrar
from node.sessions.planners import PlannerRefused, Planners
from node.sessions.runner import Runner
from node.sessions.service import SessionService, task_end
from node.settings import Settings
from node.telemetry.metrics import Metrics
from shared_state import State
from shared_state.errors import InboxFull, NotRegistered, SessionExists, TaskNameTaken
from shared_state.sessions import SessionState

__all__ = ["Handlers"]

log = logging.getLogger(__name__)

# UFO's clients serialise every default, so in these two types `client_type: device` is no claim.
_NO_CLAIM = frozenset({ClientMessageType.HEARTBEAT, ClientMessageType.ERROR})
_COMMANDS = TypeAdapter(list[Command])
COMMANDS_BOUND = 256


class Handlers:
    """One method per message type."""

    def __init__(
        self,
        state: State,
        registrar: Registrar,
        runner: Runner,
        service: SessionService,
        metrics: Metrics,
        planners: Planners,
        devices: DeviceNotes,
        settings: Settings,
    ) -> None:
        self._state = state
        self._registrar = registrar
        self._runner = runner
        self._service = service
        self._metrics = metrics
        self._planners = planners
        self._devices = devices
        self._settings = settings
        self._by_type: dict[ClientMessageType, Callable[[Connection, ClientMessage], Awaitable[None]]] = {
            ClientMessageType.HEARTBEAT: self._heartbeat,
            ClientMessageType.TASK: self._task,
            ClientMessageType.COMMAND_RESULTS: self._command_results,
            ClientMessageType.TASK_END: self._task_end,
            ClientMessageType.DEVICE_INFO_REQUEST: self._device_info_request,
            ClientMessageType.DEVICE_INFO_RESPONSE: self._device_info_response,
            ClientMessageType.ERROR: self._error,
            ClientMessageType.REGISTER: self._register_again,
        }

    async def handle(self, connection: Connection, message: ClientMessage) -> None:
        """Act on a message. Raises StateUnavailable; anything the client did wrong is answered here."""
        claim = self._false_claim(connection, message)
        if claim is not None:
            log.warning("identity claim refused", extra={"client_id": connection.client_id, "claim": claim})
            connection.send_error(claim, session_id=message.session_id)
            return
        try:
            await self._by_type[message.type](connection, message)
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
    async def _heartbeat(self, connection: Connection, message: ClientMessage) -> None:  # noqa: ARG002
        connection.send(ServerMessage(type=ServerMessageType.HEARTBEAT))

    async def _error(self, connection: Connection, message: ClientMessage) -> None:
        log.warning(
            "client reports an error",
            extra={"client_id": connection.client_id, "error": (message.error or "")[:500]},
        )
        if message.session_id is not None:
            message.status = TaskStatus.ERROR
            self._runner.on_task_end(connection, message)

    async def _register_again(self, connection: Connection, message: ClientMessage) -> None:  # noqa: ARG002
        raise ProtocolError("this socket is registered already", field="type")

    # -- tasks -----------------------------------------------------------------------------------------------------
    async def _task(self, connection: Connection, message: ClientMessage) -> None:
        if connection.is_device:
            if message.target_id not in {None, "", connection.client_id}:
                raise ProtocolError("a device may only target itself", field="target_id")
            if self._runner.on_echo(connection, message):
                return
        target_id = self._target_of(connection, message)
        if not message.request or not message.request.strip():
            raise ProtocolError("Empty task content", field="request")
        session_id = check_session_id(message.session_id) if message.session_id else new_id()
        task_name = check_task_path(message.task_name) if message.task_name else None
        metadata = dict(message.metadata or {})
        commands = _commands_of(metadata)
        planner = metadata.pop("planner", None)
        if planner is not None and planner not in self._planners:
            raise ProtocolError(f"must be one of {', '.join(self._planners.names())}", field="metadata.planner")
        timeout_s = self._timeout_of(metadata)
        try:
            await self._service.dispatch(
                client_id=target_id,
                request=message.request,
                task_name=task_name,
                commands=commands,
                timeout_s=timeout_s,
                planner=planner,
                metadata=metadata,
                owner=connection.client_id,
                session_id=session_id,
            )
        except SessionExists as exc:
            self._metrics.dispatches.labels("session_exists").inc()
            connection.send_error(str(exc), session_id=session_id)
        except (NotRegistered, TaskNameTaken, PlannerRefused, InboxFull) as exc:
            # UFO's orchestrator waits for a task_end and does not look at errors: it must get one.
            self._metrics.dispatches.labels("refused").inc()
            error = f"Target device '{target_id}' is not connected" if isinstance(exc, NotRegistered) else str(exc)
            connection.send(task_end(session_id, task_name or session_id, SessionState.FAILED, None, error))
        else:
            self._metrics.dispatches.labels("accepted").inc()
            connection.send(ServerMessage(type=ServerMessageType.HEARTBEAT, session_id=session_id))

    def _target_of(self, connection: Connection, message: ClientMessage) -> str:
        if connection.is_device:
            return connection.client_id
        target_id = message.target_id or connection.target_id
        if not target_id:
            raise ProtocolError("name the device that the task is for", field="target_id")
        if connection.target_id and target_id != connection.target_id:
            raise ProtocolError(f"this socket may only target '{connection.target_id}'", field="target_id")
        return check_client_id(target_id, "target_id")

    def _timeout_of(self, metadata: dict[str, Any]) -> float:
        timeout_s = metadata.pop("timeout_s", None)
        if timeout_s is None:
            return self._settings.session_timeout_s
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
            raise ProtocolError("must be a number of seconds", field="metadata.timeout_s")
        if not 0 < timeout_s <= self._settings.max_session_timeout_s:
            raise ProtocolError(
                f"must be above 0 and at most {self._settings.max_session_timeout_s:g}", field="metadata.timeout_s"
            )
        return float(timeout_s)

    async def _command_results(self, connection: Connection, message: ClientMessage) -> None:
        self._runner.on_results(connection, message)

    async def _task_end(self, connection: Connection, message: ClientMessage) -> None:
        self._runner.on_task_end(connection, message)

    # -- device information ----------------------------------------------------------------------------------------
    async def _device_info_request(self, connection: Connection, message: ClientMessage) -> None:
        if connection.is_device:
            raise ProtocolError("only constellations may ask for device information", field="type")
        target_id = self._target_of(connection, message)
        found = await self._state.clients.get(target_id)
        answer = ServerMessage(type=ServerMessageType.DEVICE_INFO_RESPONSE, response_id=message.request_id)
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


def _commands_of(metadata: dict[str, Any]) -> list[Command]:
    given = metadata.pop("commands", None)
    if given is None:
        return []
    if not isinstance(given, list) or len(given) > COMMANDS_BOUND:
        raise ProtocolError(f"must be a list of at most {COMMANDS_BOUND} commands", field="metadata.commands")
    try:
        return _COMMANDS.validate_python(given)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(first["msg"], field=f"metadata.commands.{where}") from None
