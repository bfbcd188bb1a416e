"""Runs the sessions of the devices whose sockets this node holds.

A task is handed to the device, then driven: by a planner here (server-driven: commands out, results in, each step
stored before it is sent), or by the device itself. Whatever ends a session first wins, in Redis; what comes later is
counted and dropped. Results are taken only from the device that the session runs on, and never create a session.
If Redis is away a session goes on as far as it can; its end is stored once Redis is back.

| what ends a session | here | the device is told | the requester is told |
|---|---|---|---|
| the planner, or the deadline | `_finish` | yes | by the service, with the end |
| the device says so | `_finish_soon` | no: it knows | by the service, with the end |
| a cancellation, a late reader, the reaper | `on_ended_elsewhere` | of the stored end | by whoever ended it |
| the device's socket is gone | `on_device_gone` | nobody is there | by the service, with the end |
| it is not stored any more | `_drop` | yes | nobody knows whom |
"""

import asyncio
import logging
from typing import Any

from aip import ClientMessage, ServerMessage, ServerMessageType, TaskStatus, new_id
from aip.ids import now_ms
from node.background import Background
from node.gateway.connection import Connection
from node.sessions.driver import Driver, shortened
from node.sessions.local_session import LocalSession
from node.sessions.orders import TaskOrder
from node.sessions.planners import Planners
from node.sessions.platforms import platform_named
from node.sessions.secrets import ToolSecrets
from node.sessions.service import DEVICE_GONE, SessionService, task_end
from node.sessions.toolbelt import Toolbelt
from node.telemetry.metrics import Metrics
from shared_state import State
from shared_state.errors import SessionNotFound, StateError, StateUnavailable
from shared_state.sessions import TERMINAL, Ended, SessionState

__all__ = ["NO_ECHO", "Runner"]

log = logging.getLogger(__name__)

# A device that lists this feature wants the commands at once: it does not repeat the task as UFO's client does.
NO_ECHO = "commands_without_echo"


class Runner:
    """The sessions under way on this node's devices."""

    def __init__(
        self,
        state: State,
        service: SessionService,
        metrics: Metrics,
        background: Background,
        planners: Planners,
        toolbelt: Toolbelt,
        secrets: ToolSecrets,
        *,
        node_id: str,
        echo_wait_s: float,
        platform: str | None,
    ) -> None:
        self._state = state
        self._service = service
        self._metrics = metrics
        self._background = background
        self._node_id = node_id
        self._echo_wait_s = echo_wait_s
        self._platform = platform
        self._planners = planners
        self._secrets = secrets
        self._driver = Driver(self._advance, toolbelt, secrets, metrics)
        self._sessions: dict[str, LocalSession] = {}
        self._by_device: dict[str, dict[str, LocalSession]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def session_for_file(self, connection: Connection, session_id: str | None) -> str | None:
        """The session that a file from this device belongs to: the one named, or its only one."""
        sessions = [s for s in self._by_device.get(connection.client_id, {}).values() if s.connection is connection]
        if session_id is not None:
            return session_id if any(s.session_id == session_id for s in sessions) else None
        return sessions[0].session_id if len(sessions) == 1 else None

    # -- a task arrives ------------------------------------------------------------------------------------------
    def accept(self, connection: Connection, order: TaskOrder, *, verify: bool) -> None:
        """Hand a task to its device and begin its session.

        With `verify` (a task that had to wait) the session is looked up first: it may have ended meanwhile.
        """
        if order.session_id in self._sessions:
            return
        planner = self._planners.get(order.planner)
        if planner is None:
            error = f"Planner '{order.planner}' is not known to the node that holds the device"
            self._background.spawn(
                self._service.end_surely(order.session_id, SessionState.FAILED, error=error), "session-end"
            )
            return
        platform = platform_named(self._platform or connection.platform)
        session = LocalSession(order, connection, new_id(), planner, platform)
        self._sessions[order.session_id] = session
        self._by_device.setdefault(connection.client_id, {})[order.session_id] = session
        left_s = (order.deadline_ms - now_ms()) / 1000
        loop = asyncio.get_running_loop()
        session.deadline_timer = loop.call_later(max(left_s, 0.0), self._on_deadline, session)
        if not verify:
            self._send_task(session)
        before, connection.task_sent = connection.task_sent, asyncio.Event()
        self._background.spawn(self._begin(session, before, connection.task_sent, sent=not verify), "session-begin")

    def _send_task(self, session: LocalSession) -> None:
        order = session.order
        names = session.agent
        session.connection.send(
            ServerMessage(
                type=ServerMessageType.TASK,
                status=TaskStatus.CONTINUE,
                user_request=order.request,
                task_name=order.task_name,
                session_id=order.session_id,
                response_id=session.task_response_id,
                agent_name=names.agent_name,
                process_name=names.process_name,
                root_name=names.root_name,
            )
        )

    async def _begin(
        self, session: LocalSession, before: asyncio.Event | None, sending: asyncio.Event, *, sent: bool
    ) -> None:
        try:
            state = await self._advance(
                session, SessionState.DISPATCHED, {"event": "dispatched", "node_id": self._node_id}
            )
            if not sent and before is not None:
                # Sessions are looked up side by side, in a Redis Cluster on several servers; tasks keep their order.
                await before.wait()
            if state is None or session.over:
                return
            if not sent:
                self._send_task(session)
        finally:
            sending.set()
        if session.planner.device_driven or session.running:
            return
        features = session.connection.features
        if NO_ECHO in features or session.connection.payload_format or session.echoed or self._echo_wait_s == 0:
            self._start(session)
        else:
            loop = asyncio.get_running_loop()
            session.echo_timer = loop.call_later(self._echo_wait_s, self._start, session)

    async def _advance(
        self, session: LocalSession, state: SessionState | None, event: dict[str, Any], **fields: str
    ) -> SessionState | None:
        """Store a step. None if the session is over, here and for its device."""
        for attempt in (1, 2):
            try:
                now = await self._state.sessions.advance(
                    session.session_id, state, event=event, node_id=self._node_id, **fields
                )
            except SessionNotFound:
                if attempt == 1:
                    # The task may have overtaken its session: they live in different slots.
                    await asyncio.sleep(0.05)
                    continue
                self._drop(session, SessionState.CANCELLED, None, "The session is not stored any more")
                return None
            except StateUnavailable as exc:
                log.warning("step not stored", extra={"session_id": session.session_id, "reason": str(exc)})
                return state or SessionState.RUNNING
            if now in TERMINAL:
                await self.on_ended_elsewhere(session.session_id)
                return None
            if session.order.owner and session.order.metadata.get("progress") is True:
                await self._service.tell_progress(session.order, event)
            return now
        return None

    # -- server-driven -------------------------------------------------------------------------------------------
    def on_echo(self, connection: Connection, message: ClientMessage) -> bool:
        """Join a device's `task` to the session that made it say so. False if there is none: the task is its own.

        UFO's client repeats the task without its session id, so device and task name must do.
        """
        for session in self._by_device.get(connection.client_id, {}).values():
            if session.echoed:
                continue
            if message.session_id == session.session_id or (
                message.session_id is None and message.task_name == session.order.task_name
            ):
                session.echoed = True
                if session.echo_timer is not None:
                    session.echo_timer.cancel()
                    self._start(session)
                return True
        return message.session_id is None and message.task_name in connection.ended_tasks

    def _start(self, session: LocalSession) -> None:
        if not session.running and not session.over:
            session.running = True
            session.driver = self._background.spawn(self._drive(session), "session-drive")

    async def _drive(self, session: LocalSession) -> None:
        finish = await self._driver.run(session)
        if finish is not None:
            state = SessionState.COMPLETED if finish.error is None else SessionState.FAILED
            await self._finish(session, state, finish.result, finish.error)

    # -- the device answers --------------------------------------------------------------------------------------
    def on_results(self, connection: Connection, message: ClientMessage) -> None:
        """`command_results` from a device."""
        session = self._session_of(connection, message)
        if session is None:
            self._metrics.dropped_results.inc()
            log.debug("results for no session of the sender", extra={"client_id": connection.client_id})
            return
        future = session.pending.pop(message.prev_response_id or "", None)
        if future is not None:
            if not future.done():
                future.set_result(message)
        elif session.planner.device_driven:
            self._on_device_driven(session, message)
        else:
            self._metrics.dropped_results.inc()

    def on_task_end(self, connection: Connection, message: ClientMessage) -> None:
        """`task_end` from a device: the session is over from its side."""
        session = self._session_of(connection, message)
        if session is None:
            self._metrics.dropped_results.inc()
        elif message.status in {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.ERROR}:
            self._finish_soon(session, message)

    def _session_of(self, connection: Connection, message: ClientMessage) -> LocalSession | None:
        sessions = self._by_device.get(connection.client_id, {})
        if message.session_id is not None:
            session = sessions.get(message.session_id)
        else:
            wanted = message.prev_response_id
            session = next(
                (s for s in sessions.values() if wanted and (wanted in s.pending or wanted == s.task_response_id)), None
            )
        return session if session is not None and session.connection is connection else None

    def _on_device_driven(self, session: LocalSession, message: ClientMessage) -> None:
        if message.status in {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.ERROR}:
            self._finish_soon(session, message)
            return
        state = None if session.running else SessionState.RUNNING
        session.running = True
        event: dict[str, Any] = {"event": "progress"}
        if message.action_results:
            event["results"] = [shortened(self._secrets.scrub(r)) for r in message.action_results]
        if message.messages:
            event["messages"] = self._secrets.struck(message.messages)
        self._background.spawn(self._advance(session, state, event), "session-progress")

    def _finish_soon(self, session: LocalSession, message: ClientMessage) -> None:
        completed = message.status is TaskStatus.COMPLETED
        result = message.result
        if result is None and message.action_results is not None:
            result = [r.model_dump(exclude_none=True) for r in message.action_results]
        error = None
        if not completed:
            failed = next((r.error for r in message.action_results or [] if r.error), None)
            error = message.error or failed or "The device reported a failure"
        result, error = self._secrets.struck(result), self._secrets.struck(error)
        state = SessionState.COMPLETED if completed else SessionState.FAILED
        # What a device ended by itself it need not be told.
        self._background.spawn(self._finish(session, state, result, error, tell_device=False), "session-finish")

    # -- the end ---------------------------------------------------------------------------------------------------
    def _on_deadline(self, session: LocalSession) -> None:
        error = f"Task timed out after {session.order.timeout_s:g} s"
        self._background.spawn(self._finish(session, SessionState.TIMED_OUT, None, error), "session-timeout")

    async def _finish(
        self,
        session: LocalSession,
        state: SessionState,
        result: Any,
        error: str | None,
        *,
        tell_device: bool = True,
    ) -> None:
        if session.over:
            return
        self._forget(session)
        created_ms = session.order.deadline_ms - session.order.timeout_s * 1000
        self._metrics.session_seconds.labels(state.value).observe(max(0.0, (now_ms() - created_ms) / 1000))
        ended = await self._service.end_surely(session.session_id, state, result=result, error=error)
        if isinstance(ended, SessionState):
            # Somebody else ended it first: the device hears of that end, not of ours.
            await self._tell_device_of_stored_end(session)
        elif tell_device:
            session.connection.send(task_end(session.session_id, session.order.task_name, state, result, error))
        elif isinstance(ended, Ended):
            log.debug("session ended", extra={"session_id": session.session_id, "state": state.value})

    def _forget(self, session: LocalSession) -> None:
        session.stop()
        self._sessions.pop(session.session_id, None)
        sessions = self._by_device.get(session.connection.client_id)
        if sessions is not None:
            sessions.pop(session.session_id, None)
            if not sessions:
                del self._by_device[session.connection.client_id]
        if session.order.owner != session.connection.client_id:
            # Its echo, or another, may be on its way still; a task of the device's own has none.
            session.connection.ended_tasks.append(session.order.task_name)

    def _drop(self, session: LocalSession, state: SessionState, result: Any, error: str | None) -> None:
        if not session.over:
            self._forget(session)
            session.connection.send(task_end(session.session_id, session.order.task_name, state, result, error))

    async def on_ended_elsewhere(self, session_id: str) -> None:
        """Another node, or a request, ended a session of ours: stop it here and tell its device."""
        session = self._sessions.get(session_id)
        if session is None or session.over:
            return
        self._forget(session)
        await self._tell_device_of_stored_end(session)

    async def look_again(self) -> None:
        """This node was taken for dead: what others ended meanwhile is over here too. Raises StateUnavailable."""
        states = await self._state.sessions.states(list(self._sessions))
        for session_id, (state, _) in states.items():
            if state in TERMINAL:
                await self.on_ended_elsewhere(session_id)

    async def _tell_device_of_stored_end(self, session: LocalSession) -> None:
        try:
            stored = await self._state.sessions.find(session.session_id)
        except StateError:
            stored = None
        state = stored.state if stored else SessionState.CANCELLED
        result, error = (stored.result, stored.error) if stored else (None, None)
        session.connection.send(task_end(session.session_id, session.order.task_name, state, result, error))

    async def on_device_gone(self, connection: Connection, session_ids: list[str]) -> None:
        """The device's socket is closed: its sessions (those known here, and those in `session_ids`) are cancelled."""
        ids = dict.fromkeys([*self._by_device.get(connection.client_id, {}), *session_ids])
        for session_id in ids:
            session = self._sessions.get(session_id)
            if session is not None:
                self._forget(session)
        await asyncio.gather(*(self._service.end_surely(s, SessionState.CANCELLED, error=DEVICE_GONE) for s in ids))
