"""Runs the sessions of the devices whose sockets this node holds.

A task is handed to the device, then driven: by a planner here (server-driven: commands out, results in, each step
stored before it is sent), or by the device itself. Whatever ends a session first wins, in Redis; what comes later is
counted and dropped. Results are taken only from the device that the session runs on, and never create a session. What
another connection of the device drives by now is let go of without a word (`Fenced`).
If Redis is away a session waits with its next step, and its end is stored once Redis is back.

| what ends a session | here | the device is told | the requester is told |
|---|---|---|---|
| the planner, or the deadline | `Finisher.finish` | yes | by the service, with the end |
| the device says so | `Finisher.finish_soon` | no: it knows | by the service, with the end |
| a cancellation, a late reader, the reaper | `on_ended_elsewhere` | of the stored end | by whoever ended it |
| the device's socket is gone | `let_go` | nobody is there | once it may come back no longer |
| it is not stored any more | `_drop` | yes | nobody knows whom |
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from aip_cluster.protocol import ClientMessage, TaskStatus
from aip_cluster.protocol.features import NO_ECHO
from aip_cluster.protocol.ids import now_ms
from node.concurrency.background import Background
from node.connections.connection import Connection
from node.sessions.deadlines import Deadlines
from node.sessions.device_reports import outcome_of, progress_of
from node.sessions.driver import Driver, response_ids
from node.sessions.finishing import Finisher
from node.sessions.local_session import LocalSession, Restored
from node.sessions.planners import Planners
from node.sessions.platforms import platform_named
from node.sessions.secrets import ToolSecrets
from node.sessions.service import SUPERSEDED, SessionService, task_end
from node.sessions.session_registry import SessionRegistry
from node.sessions.steps import Steps
from node.sessions.task_spec import TaskSpec
from node.sessions.task_timing import TaskTiming
from node.sessions.tool_catalog import ToolCatalog
from node.telemetry.metrics import Metrics
from shared_state import State
from shared_state.errors import Fenced, SessionNotFound, StateUnavailable
from shared_state.inbox import SessionRef
from shared_state.sessions import TERMINAL, Ending, SessionState

__all__ = ["Runner"]

log = logging.getLogger(__name__)

# With which a device says that its part is over.
_OVER = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.ERROR})


class Runner:
    """The sessions under way on this node's devices."""

    def __init__(
        self,
        state: State,
        service: SessionService,
        metrics: Metrics,
        background: Background,
        planners: Planners,
        tools: ToolCatalog,
        secrets: ToolSecrets,
        *,
        node_id: str,
        echo_wait_s: float,
        command_timeout_s: float,
        platform: str | None,
        stages: Callable[[TaskSpec], TaskTiming],
    ) -> None:
        self._state = state
        self._service = service
        self._metrics = metrics
        self._background = background
        self._node_id = node_id
        self._echo_wait_s = echo_wait_s
        self._platform = platform
        self._planners = planners
        self._steps = Steps(state, service, background, node_id, on_late=self._store_late)
        self._driver = Driver(self._advance, self._steps.note, tools, secrets, metrics, command_timeout_s)
        self._finisher = Finisher(state.end_batch, service, background, self._forget)
        self._sessions = SessionRegistry()
        self._deadlines = Deadlines(self._on_deadline)
        self.counts = self._sessions.counts
        self._stages = stages

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._sessions

    def session_for_file(self, connection: Connection, session_id: str | None) -> str | None:
        """The session that a file from this device belongs to: the one named, or its only one."""
        return self._sessions.for_file(connection, session_id)

    def has_session(self, connection: Connection) -> bool:
        """Whether anything runs over this connection."""
        return bool(self._sessions.over(connection))

    def has_step_under_way(self, connection: Connection) -> bool:
        """Whether a device works on commands that came over this connection, or their results are not stored yet."""
        return any(s.in_step for s in self._sessions.over(connection))

    # -- a task arrives ------------------------------------------------------------------------------------------
    def accept(self, connection: Connection, order: TaskSpec, *, verify: bool) -> bool:
        """Hand a task to its device and begin its session. False if it is not begun here.

        With `verify` (a task that had to wait) the session is looked up first: it may have ended meanwhile.
        """
        session = self._open(connection, order, None)
        if session is None:
            return False
        before = connection.task_sent
        if not verify and (before is None or before.is_set()):
            session.hand_over()
            self._steps.note_dispatched(session)
            if not session.planner.device_driven:
                self._await_echo(session)
            return True
        connection.task_sent = asyncio.Event()
        self._background.spawn(self._begin(session, before, connection.task_sent), "session-begin")
        return True

    def adopt(self, connection: Connection, order: TaskSpec, restored: Restored, *, started: bool) -> None:
        """Go on with a session that ran over an earlier connection of the device.

        `started`: its device took it. What it may not have got is sent again, under the same id.
        """
        session = self._open(connection, order, restored)
        if session is None:
            return
        if restored.act is not None:
            # Answers that the device kept while it was away may be here before the step is repeated.
            for response_id in response_ids(restored.act, restored.response_id):
                session.expect(response_id)
        if session.planner.device_driven:
            session.running = started
            if not started and connection.recognises_repeats:
                session.hand_over()
        elif started:
            self._start(session)
        else:
            session.hand_over()
            self._await_echo(session)

    def _open(self, connection: Connection, order: TaskSpec, restored: Restored | None) -> LocalSession | None:
        # What is handed to a socket that is going would stay here, and be in the way when the device is back.
        if connection.closing is not None:
            return None
        before = self._sessions.get(order.session_id)
        if before is not None:
            if before.order.created_ms >= order.created_ms:
                return None
            self._give_way(before)
        planner = self._planners.get(order.planner)
        if planner is None:
            error = f"Planner '{order.planner}' is not known to the node that holds the device"
            ending = Ending(order.session_id, SessionState.FAILED, error=error)
            self._background.spawn(self._service.end_surely(ending), "session-end")
            return None
        platform = platform_named(self._platform or connection.platform)
        session = LocalSession(order, connection, planner, platform, self._stages(order), restored=restored)
        self._sessions.add(session)
        # Of the time until the deadline a part may have been for waiting.
        self._deadlines.add(session, min((order.deadline_ms - now_ms()) / 1000, order.timeout_s))
        return session

    async def _begin(self, session: LocalSession, before: asyncio.Event | None, sending: asyncio.Event) -> None:
        try:
            state = await self._advance(
                session, SessionState.DISPATCHED, {"event": "dispatched", "node_id": self._node_id}
            )
            if before is not None:
                # Sessions are looked up side by side, in a Redis Cluster on several servers; tasks keep their order.
                await before.wait()
            if state is None or session.over:
                return
            session.hand_over()
        finally:
            sending.set()
        if not session.planner.device_driven and not session.running:
            self._await_echo(session)

    def _await_echo(self, session: LocalSession) -> None:
        features = session.connection.features
        if NO_ECHO in features or session.connection.payload_format or session.echoed or self._echo_wait_s == 0:
            self._start(session)
        else:
            session.echo_timer = asyncio.get_running_loop().call_later(self._echo_wait_s, self._start, session)

    async def _advance(
        self,
        session: LocalSession,
        state: SessionState | None,
        event: dict[str, Any] | None,
        *,
        journal: Sequence[Mapping[str, Any]] = (),
        fields: Mapping[str, str] = MappingProxyType({}),
    ) -> SessionState | None:
        """Store a step. None if the session is over, here and for its device; or if it is not ours any more."""
        try:
            now = await self._steps.store(session, state, event, journal=journal, fields=fields)
        except Fenced:
            self._forget(session)
            return None
        except SessionNotFound:
            await self._drop(session, "The session is not stored (any more)")
            return None
        if now in TERMINAL:
            await self.on_ended_elsewhere(session.session_id)
            return None
        return now

    async def _store_late(self, session: LocalSession) -> None:
        handed_over = "dispatched_ms" in session.behind.stamps
        await self._advance(session, SessionState.DISPATCHED if handed_over else None, None)

    # -- server-driven -------------------------------------------------------------------------------------------
    def on_echo(self, connection: Connection, message: ClientMessage) -> bool:
        """Join a device's `task` to the session that made it say so. False if there is none: the task is its own."""
        session = self._sessions.echoed_by(connection, message)
        if session is None:
            return message.session_id is None and message.task_name in connection.ended_tasks
        session.echo(message)
        if session.echo_timer is not None:
            session.echo_timer.cancel()
            self._start(session)
        return True

    def _start(self, session: LocalSession) -> None:
        if not session.running and not session.over:
            session.begin()
            session.driver = self._background.spawn(self._drive(session), "session-drive")

    async def _drive(self, session: LocalSession) -> None:
        finish = await self._driver.run(session)
        if finish is not None:
            state = SessionState.COMPLETED if finish.error is None else SessionState.FAILED
            await self._finisher.finish(session, state, finish.result, finish.error)

    # -- the device answers --------------------------------------------------------------------------------------
    def on_results(self, connection: Connection, message: ClientMessage) -> None:
        """`command_results` from a device."""
        session = self._sessions.meant_by(connection, message)
        if session is None:
            self._metrics.dropped_results.inc()
            log.debug("results for no session of the sender", extra={"client_id": connection.client_id})
            return
        if session.answer(message):
            return
        if session.planner.device_driven:
            self._on_device_driven(session, message)
        else:
            self._metrics.dropped_results.inc()

    def on_task_end(self, connection: Connection, message: ClientMessage) -> None:
        """`task_end` from a device: the session is over from its side."""
        session = self._sessions.meant_by(connection, message)
        if session is None:
            self._metrics.dropped_results.inc()
        elif message.status in _OVER:
            session.timing.acknowledged(message)
            self._finish_soon(session, message)

    def on_too_large(self, connection: Connection, said: ClientMessage | None, why: str) -> None:
        """Results of a device are above a bound, now and however often: their session fails.

        Without `said`, which only tells whose they are, they are of any session that the device works on: all fail.
        """
        if said is None or not (said.session_id or said.prev_response_id):
            sessions = self._sessions.worked_on(connection)
        else:
            meant = self._sessions.meant_by(connection, said)
            sessions = [] if meant is None else [meant]
        for session in sessions:
            failed = self._finisher.finish(session, SessionState.FAILED, None, f"result too large: {why}")
            self._background.begin(failed, "session-finish")

    def _on_device_driven(self, session: LocalSession, message: ClientMessage) -> None:
        if message.status in _OVER:
            self._finish_soon(session, message)
            return
        state = None if session.running else SessionState.RUNNING
        session.begin()
        event = progress_of(message)
        # That it began is stored at once: it shows that the device took the task.
        stored = self._steps.note(session, event) if state is None else self._advance(session, state, event)
        self._background.begin(stored, "session-progress")

    def _finish_soon(self, session: LocalSession, message: ClientMessage) -> None:
        state, result, error = outcome_of(message)
        self._finisher.finish_soon(session, state, result, error)

    # -- the end ---------------------------------------------------------------------------------------------------
    def _on_deadline(self, session: LocalSession) -> None:
        error = f"Task timed out after {session.order.timeout_s:g} s"
        self._background.spawn(self._finisher.finish(session, SessionState.TIMED_OUT, None, error), "session-timeout")

    def _forget(self, session: LocalSession, *, ended: bool = True) -> None:
        session.stop()
        if ended:
            session.connection.taken.discard(session.order.mark)
        self._sessions.remove(session)
        self._deadlines.remove(session)
        if session.has_behind:
            self._background.spawn(self._steps.flush([session]), "step-behind")
        if session.order.owner != session.connection.client_id:
            # Its echo, or another, may be on its way still; a task of the device's own has none.
            session.connection.ended_tasks.append(session.order.task_name)

    async def _drop(self, session: LocalSession, error: str) -> None:
        """Nothing is stored of the session: its dispatch did not come to its end, or Redis lost its data."""
        if session.over:
            return
        self._forget(session)
        order = session.order
        session.connection.send(task_end(order.session_id, order.task_name, SessionState.CANCELLED, None, error))
        try:
            # Whoever repeats the dispatch is to find the way free.
            await self._state.inbox.unpost(
                order.client_id, SessionRef(order.session_id, order.deadline_ms, order.created_ms)
            )
        except StateUnavailable as exc:
            log.warning("left for its time to live to remove", extra={"reason": str(exc)})

    async def on_ended_elsewhere(
        self, session_id: str, connection: Connection | None = None, created_ms: int | None = None
    ) -> None:
        """Another node, or a request, ended a session: stop it here and tell its device.

        With `connection` the device is told even if the session is not under way here: it may have been, elsewhere.
        With `created_ms` only the session is meant that was created then: its id may be in use again.
        """
        session = self._sessions.get(session_id)
        if session is not None and created_ms not in {None, session.order.created_ms}:
            return
        if session is not None and not session.over:
            self._forget(session)
            await self._finisher.tell_of_stored_end(session)
        elif session is None and connection is not None:
            try:
                end = await self._service.stored_end(session_id, created_ms)
            except StateUnavailable as exc:
                # It has no session here: what it still does for one it gives up with its deadline.
                log.info("a device is not told of an end", extra={"session_id": session_id, "reason": str(exc)})
                return
            if end is not None:
                connection.send(end)

    def on_superseded(self, connection: Connection, session_id: str, created_ms: int) -> None:
        """A session gives way to another request under its id, which follows: the device stops it first."""
        session = self._sessions.get(session_id)
        if session is None:
            # It may have run over an earlier connection of the device.
            connection.send(task_end(session_id, "", SessionState.CANCELLED, None, SUPERSEDED))
        elif session.order.created_ms == created_ms:
            self._give_way(session)

    def _give_way(self, session: LocalSession) -> None:
        """Stop a session here and on its device, whatever is stored of it: another one has its id."""
        self._forget(session)
        task_name = session.order.task_name
        session.connection.send(task_end(session.session_id, task_name, SessionState.CANCELLED, None, SUPERSEDED))

    async def look_again(self) -> None:
        """This node was taken for dead: what others ended meanwhile is over here too. Raises StateUnavailable."""
        states = await self._state.sessions.states([s.session_id for s in self._sessions])
        for session_id, (state, _) in states.items():
            session = self._sessions.get(session_id)
            if state in TERMINAL:
                await self.on_ended_elsewhere(session_id)
            elif state is SessionState.SUSPENDED and session is not None:
                running = SessionState.RUNNING if session.running else SessionState.DISPATCHED
                await self._advance(session, running, {"event": "resumed", "node_id": self._node_id})

    async def catch_up(self, connection: Connection) -> None:
        """Store what has happened over a socket that is gone, as far as Redis is there: others decide by it."""
        await self._steps.flush(self._sessions.over(connection))

    def let_go(self, connection: Connection) -> list[str]:
        """The socket is gone, or another has taken its place: stop here what ran over it. Returns the session ids."""
        sessions = self._sessions.over(connection)
        for session in sessions:
            self._forget(session)
        return [s.session_id for s in sessions]
