"""Tasks that come over a socket: from a constellation for a device, or from a device for itself.

What is wrong in a task is answered with an `error` that names the field. A task that cannot be run is answered with
`task_end`, `failed`: UFO's orchestrator waits for one and does not look at errors.
"""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from pydantic import TypeAdapter, ValidationError

from aip_cluster.protocol import ClientMessage, Command, ProtocolError, ServerMessage, ServerMessageType
from aip_cluster.protocol.ids import check_client_id, check_session_id, check_task_path
from aip_cluster.protocol.messages import COMMANDS_BOUND
from node.connections.connection import Connection
from node.sessions.dispatching import Attempt, Dispatcher
from node.sessions.planners import PlannerRefused, Planners
from node.sessions.runner import Runner
from node.sessions.service import SessionService, task_end
from node.sessions.suspension import ORPHAN_POLICY
from node.sessions.task_bounds import TaskBounds, TaskTooLarge
from node.settings import Settings
from node.telemetry.metrics import Metrics
from shared_state import State
from shared_state.errors import (
    InboxFull,
    NotRegistered,
    SessionEnded,
    SessionExists,
    StateError,
    StateUnavailable,
    TaskNameTaken,
    TooManySessions,
)
from shared_state.sessions import Session, SessionState

__all__ = ["TaskIntake", "target_of"]

log = logging.getLogger(__name__)

_COMMANDS = TypeAdapter(list[Command])
REQUEST_ID_CHARS = 128
FINGERPRINT_CHARS = 32
# A client that asks over one socket needs one; more would be two of them that take the id from each other.
SUPERSEDE_AT_MOST = 3
ORPHAN_POLICIES = ("continue", "cancel")
# A repetition may be in a trace of its own.
TRACE_FIELDS = frozenset({"traceparent", "tracestate"})


class _Task(NamedTuple):
    """What a `task` message asks for."""

    client_id: str
    request: str
    task_name: str | None
    commands: Sequence[Command]
    timeout_s: float
    planner: str | None
    metadata: dict[str, Any]
    owner: str
    request_id: str
    fingerprint: str


class TaskIntake:
    """Takes `task` messages."""

    def __init__(
        self,
        state: State,
        runner: Runner,
        dispatcher: Dispatcher,
        service: SessionService,
        planners: Planners,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self._state = state
        self._runner = runner
        self._dispatcher = dispatcher
        self._service = service
        self._planners = planners
        self._metrics = metrics
        self._settings = settings
        self._bounds = TaskBounds(settings)

    async def take(self, connection: Connection, message: ClientMessage) -> None:
        """Join an echo to its session, or dispatch. Raises ProtocolError and StateUnavailable."""
        if connection.is_device:
            if message.target_id not in {None, "", connection.client_id}:
                raise ProtocolError("a device may only target itself", field="target_id")
            if self._runner.on_echo(connection, message):
                return
        target_id = target_of(connection, message)
        if not message.request or not message.request.strip():
            raise ProtocolError("Empty task content", field="request")
        task_name = check_task_path(message.task_name) if message.task_name else None
        metadata = dict(message.metadata or {})
        commands = _commands_of(metadata)
        try:
            self._bounds.check(message.request, metadata, commands)
        except TaskTooLarge as exc:
            raise ProtocolError(str(exc), field=exc.field) from None
        task = _Task(
            client_id=target_id,
            request=message.request,
            task_name=task_name,
            commands=commands,
            timeout_s=self._timeout_of(metadata),
            planner=self._planner_of(metadata),
            metadata=metadata if connection.is_device else metadata | self._orphan_policy_of(metadata),
            owner=connection.client_id,
            request_id=(message.request_id or "")[:REQUEST_ID_CHARS],
            fingerprint=_fingerprint(target_id, message),
        )
        if message.session_id:
            attempt = Attempt.under(check_session_id(message.session_id))
        else:
            attempt = Attempt.fresh(target_id)
        session_id = attempt.session_id
        try:
            await self._dispatch(connection, task, attempt)
        except SessionEnded:
            # A frame that took long, of a socket that its client has long given up: the task was sent again since.
            self._accept(connection, session_id)
            connection.asked.answered(session_id)
            if (end := await self._service.stored_end(session_id)) is not None:
                connection.send(end)
        except (NotRegistered, PlannerRefused, InboxFull, TooManySessions, TaskNameTaken, SessionExists) as exc:
            connection.asked.answered(session_id)
            self._refuse(connection, session_id, task_name or session_id, target_id, exc)
        else:
            self._accept(connection, session_id)

    async def _dispatch(self, connection: Connection, task: "_Task", attempt: Attempt) -> None:
        """Dispatch the task, unless it is under way already; another request under its id gives way to it.

        UFO's orchestrator names its sessions by its own tasks, and asks for something else under the same name once it
        has given up the first. Raises what a dispatch raises, and SessionExists if the id is another client's.
        """
        for _ in range(SUPERSEDE_AT_MOST):
            if not connection.is_device:
                # Before the dispatch: from now on the end of an older session under this id is not waited for.
                connection.asked.ask(attempt.session_id, attempt.created_ms, task.timeout_s)
            try:
                session = await self._dispatcher.dispatch(**task._asdict(), attempt=attempt)
                if not connection.is_device:
                    connection.asked.sent_to(task.client_id)
                    await self._note_asked(session)
                return
            except (TaskNameTaken, SessionExists) as exc:
                if not attempt.given_id or getattr(exc, "session_id", attempt.session_id) != attempt.session_id:
                    raise
            before = await self._service.asked_by(attempt.session_id, task.owner)
            if before is None:
                raise SessionExists(f"Session '{attempt.session_id}' is in use")
            if before.fingerprint == task.fingerprint:
                # The same task once more, perhaps because our answer was lost: it is under way.
                connection.asked.ask(attempt.session_id, before.created_ms, task.timeout_s)
                connection.asked.sent_to(task.client_id)
                return
            await self._service.supersede(before)
            # The two are told apart by it.
            attempt = attempt._replace(created_ms=max(attempt.created_ms, before.created_ms + 1))
        raise SessionExists(f"Session '{attempt.session_id}' is in use")

    async def _note_asked(self, session: Session) -> None:
        try:
            await self._state.asked.add(session.owner, session.session_id, session.deadline_ms)
        except StateUnavailable as exc:
            # The task is on its way all the same; at worst it goes on when its requester has left.
            log.warning("not noted who asked", extra={"session_id": session.session_id, "reason": str(exc)})

    def _accept(self, connection: Connection, session_id: str) -> None:
        self._metrics.dispatched["accepted"].inc()
        connection.send(ServerMessage(type=ServerMessageType.HEARTBEAT, session_id=session_id))

    def _refuse(
        self, connection: Connection, session_id: str, task_name: str, target_id: str, why: StateError | PlannerRefused
    ) -> None:
        if isinstance(why, SessionExists):
            self._metrics.dispatched["session_exists"].inc()
            connection.send_error(str(why), session_id=session_id)
            if not connection.is_device:
                # UFO's orchestrator only logs an error, and would wait for the task until its own deadline.
                connection.send(task_end(session_id, task_name, SessionState.FAILED, None, str(why)))
            return
        self._metrics.dispatched["refused"].inc()
        error = f"Target device '{target_id}' is not connected" if isinstance(why, NotRegistered) else str(why)
        connection.send(task_end(session_id, task_name, SessionState.FAILED, None, error))

    def _planner_of(self, metadata: dict[str, Any]) -> str | None:
        planner = metadata.pop("planner", None)
        if planner is not None and planner not in self._planners:
            raise ProtocolError(f"must be one of {', '.join(self._planners.names())}", field="metadata.planner")
        return planner if isinstance(planner, str) else None

    def _orphan_policy_of(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """What becomes of the session if its requester leaves for good."""
        policy = metadata.get(ORPHAN_POLICY, self._settings.orphaned_sessions)
        if policy not in ORPHAN_POLICIES:
            raise ProtocolError(f"must be one of {', '.join(ORPHAN_POLICIES)}", field=f"metadata.{ORPHAN_POLICY}")
        return {ORPHAN_POLICY: policy}

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


def target_of(connection: Connection, message: ClientMessage) -> str:
    """The device that a message means. Raises ProtocolError if the sender may not mean it."""
    if connection.is_device:
        return connection.client_id
    target_id = message.target_id or connection.target_id
    if not target_id:
        raise ProtocolError("name the device that the task is for", field="target_id")
    if connection.target_id and target_id != connection.target_id:
        raise ProtocolError(f"this socket may only target '{connection.target_id}'", field="target_id")
    return check_client_id(target_id, "target_id")


def _fingerprint(target_id: str, message: ClientMessage) -> str:
    """What a `task` asks for, as a hash: the same for a repetition, whatever else the frame says."""
    metadata = {name: value for name, value in (message.metadata or {}).items() if name not in TRACE_FIELDS}
    asked = [target_id, message.task_name, message.request, metadata]
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()[:FINGERPRINT_CHARS]


def _commands_of(metadata: dict[str, Any]) -> Sequence[Command]:
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
