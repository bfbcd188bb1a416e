"""Tasks that come over a socket: from a constellation for a device, or from a device for itself.

What is wrong in a task is answered with an `error` that names the field. A task that cannot be run is answered with
`task_end`, `failed`: UFO's orchestrator waits for one and does not look at errors.
"""

import hashlib
import logging
from typing import Any

import orjson

from aip_cluster.protocol import ClientMessage, ProtocolError, ServerMessage, ServerMessageType
from aip_cluster.protocol.ids import check_client_id, check_session_id, check_task_path
from node.connections.connection import Connection
from node.sessions.dispatching import Attempt, Dispatcher
from node.sessions.planners import PlannerRefused
from node.sessions.runner import Runner
from node.sessions.service import SessionService, task_end
from node.sessions.suspension import ORPHAN_POLICY
from node.sessions.task_request import IN_METADATA, NewTask, TaskRules, from_message
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

REQUEST_ID_CHARS = 128
FINGERPRINT_CHARS = 32
# A client that asks over one socket needs one; more would be two of them that take the id from each other.
SUPERSEDE_AT_MOST = 3
ORPHAN_POLICIES = ("continue", "cancel")
# A repetition may be in a trace of its own.
TRACE_FIELDS = frozenset({"traceparent", "tracestate"})


class TaskIntake:
    """Takes `task` messages."""

    def __init__(
        self,
        state: State,
        runner: Runner,
        dispatcher: Dispatcher,
        service: SessionService,
        rules: TaskRules,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self._state = state
        self._runner = runner
        self._dispatcher = dispatcher
        self._service = service
        self._metrics = metrics
        self._settings = settings
        self._rules = rules

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
        metadata = message.metadata or {}
        try:
            task = self._rules.accept(
                from_message(target_id, message.request, message.task_name or None, metadata),
                owner=connection.client_id,
                request_id=(message.request_id or "")[:REQUEST_ID_CHARS],
                fingerprint=_fingerprint(target_id, message),
                check_name=check_task_path,
            )
        except ProtocolError as exc:
            raise _as_sent(exc) from None
        if not connection.is_device:
            task.metadata |= self._orphan_policy_of(metadata)
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
            self._refuse(connection, session_id, task.task_name or session_id, target_id, exc)
        else:
            self._accept(connection, session_id)

    async def _dispatch(self, connection: Connection, task: NewTask, attempt: Attempt) -> None:
        """Dispatch the task, unless it is under way already; another request under its id gives way to it.

        UFO's orchestrator names its sessions by its own tasks, and asks for something else under the same name once it
        has given up the first. Raises what a dispatch raises, and SessionExists if the id is another client's.
        """
        for _ in range(SUPERSEDE_AT_MOST):
            if not connection.is_device:
                # Before the dispatch: from now on the end of an older session under this id is not waited for.
                connection.asked.ask(attempt.session_id, attempt.created_ms, task.timeout_s)
            try:
                session = await self._dispatcher.dispatch(task, attempt)
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
            log.warning(
                "cannot store which client owns the task", extra={"session_id": session.session_id, "reason": str(exc)}
            )

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

    def _orphan_policy_of(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """What becomes of the session if its requester leaves for good."""
        policy = metadata.get(ORPHAN_POLICY, self._settings.orphaned_sessions)
        if policy not in ORPHAN_POLICIES:
            raise ProtocolError(f"must be one of {', '.join(ORPHAN_POLICIES)}", field=f"metadata.{ORPHAN_POLICY}")
        return {ORPHAN_POLICY: policy}


def target_of(connection: Connection, message: ClientMessage) -> str:
    """The device that a message means. Raises ProtocolError if the sender may not mean it."""
    if connection.is_device:
        return connection.client_id
    target_id = message.target_id or connection.target_id
    if not target_id:
        raise ProtocolError("must name the device", field="target_id")
    if connection.target_id and target_id != connection.target_id:
        raise ProtocolError(f"this socket may only target '{connection.target_id}'", field="target_id")
    return check_client_id(target_id, "target_id")


def _fingerprint(target_id: str, message: ClientMessage) -> str:
    """What a `task` asks for, as a hash: the same for a repetition, whatever else the frame says."""
    metadata = {name: value for name, value in (message.metadata or {}).items() if name not in TRACE_FIELDS}
    asked = [target_id, message.task_name, message.request, metadata]
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()[:FINGERPRINT_CHARS]


def _as_sent(exc: ProtocolError) -> ProtocolError:
    """The same error, with the field where a `task` message has it."""
    if exc.field is None or exc.field.partition(".")[0] not in IN_METADATA:
        return exc
    return ProtocolError(str(exc).removeprefix(f"{exc.field}: "), field=f"metadata.{exc.field}")
