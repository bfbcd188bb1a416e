"""Runs the sessions of the devices whose sockets this node holds.

Each session is a state machine (`session`). The runner feeds it what happens, performs the effects that it returns, and
owns its timers and tasks: the device's echo and results, the deadline, the planner. `writer` stores steps. Results are
taken only from the connection that the session runs over; they never create a session.

Whatever ends a session first wins, in Redis; what comes later is counted and dropped. If a newer connection of the
device drives the session by now, this one lets go of it without a word (`Fenced`). If Redis is away, a session waits
with its next step, and its end is stored once Redis is back.

| what ends a session here | what is stored | the device is told |
|---|---|---|
| an `End` of its machine | that end, or the one that was first | as the `End` says, or of the first end |
| a cancellation, a late reader, the reaper: `on_ended_elsewhere` | their end, by them | of the stored end |
| another request under its id: `on_superseded` | an end, by the node that takes it | that it is superseded |
| the device's socket is gone: `let_go` | that it is suspended, see `suspension` | |
| it is not stored any more: `_drop` | nothing | that it is cancelled |
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from aip_cluster.protocol import ClientMessage, new_id
from aip_cluster.protocol.ids import now_ms
from node.concurrency.background import Background
from node.connections.connection import Connection
from node.sessions.deadlines import TICK_S, Deadlines
from node.sessions.journal import Restored
from node.sessions.live_session import LiveSession, device_of
from node.sessions.outgoing import send_commands, send_task
from node.sessions.planners import Act, Planners
from node.sessions.planning import Planning
from node.sessions.platforms import platform_named
from node.sessions.secrets import ToolSecrets
from node.sessions.service import SUPERSEDED, SessionService, task_end
from node.sessions.session import (
    AwaitEcho,
    Effect,
    End,
    Note,
    NoteDispatched,
    Plan,
    Send,
    SendTask,
    SessionMachine,
    Store,
)
from node.sessions.session_end import ending_of, may_travel_together, send_end, store_end, tell_of_stored_end
from node.sessions.session_registry import SessionRegistry
from node.sessions.task_spec import TaskSpec
from node.sessions.task_timing import TaskTiming
from node.sessions.tool_catalog import ToolCatalog
from node.sessions.writer import Unstored, Writer
from node.telemetry.metrics import Metrics
from shared_state import State
from shared_state.errors import Fenced, SessionNotFound, StateUnavailable
from shared_state.inbox import SessionRef
from shared_state.sessions import TERMINAL, Ending, SessionState

__all__ = ["Runner"]

log = logging.getLogger(__name__)

# In which the event loop looks at all sockets.
A_TURN_S = 0.001


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
        timing: Callable[[TaskSpec], TaskTiming],
    ) -> None:
        self._state = state
        self._service = service
        self._metrics = metrics
        self._background = background
        self._node_id = node_id
        self._echo_wait_s = echo_wait_s
        self._command_timeout_s = command_timeout_s
        self._platform = platform
        self._planners = planners
        self._tools = tools
        self._secrets = secrets
        self._timing = timing
        self._planning = Planning(tools, metrics)
        self._writer = Writer(state.sessions, node_id)
        self._sessions = SessionRegistry()
        self._deadlines = Deadlines()
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._late_timer: asyncio.TimerHandle | None = None
        self.counts = self._sessions.counts
        self._perform_as: dict[type, Callable[[LiveSession, Any], None]] = {
            SendTask: send_task,
            Send: self._send,
            AwaitEcho: self._await_echo,
            NoteDispatched: self._note_dispatched,
            Note: self._note,
            Store: self._store,
            Plan: self._plan,
            End: self._end,
        }

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
        return any(s.machine.in_step for s in self._sessions.over(connection))

    # -- inputs: a task ------------------------------------------------------------------------------------------
    def accept(self, connection: Connection, spec: TaskSpec, *, verify: bool) -> bool:
        """Hand a task to its device and begin its session. False if it is not begun here.

        With `verify` (a task that had to wait) the session is looked up first: it may have ended meanwhile.
        """
        session = self._open(connection, spec, restored=False)
        if session is None:
            return False
        before = connection.task_sent
        if not verify and (before is None or before.is_set()):
            self._perform(session, session.machine.start(stored=False))
            return True
        connection.task_sent = asyncio.Event()
        self._background.spawn(self._begin(session, before, connection.task_sent), "session-begin")
        return True

    async def _begin(self, session: LiveSession, before: asyncio.Event | None, sending: asyncio.Event) -> None:
        try:
            event = {"event": "dispatched", "node_id": self._node_id}
            state = await self._stored(session, Store(SessionState.DISPATCHED, (event,)))
            if before is not None:
                # Sessions are looked up side by side, in a Redis Cluster on several servers; tasks keep their order.
                await before.wait()
            if state is not None:
                self._perform(session, session.machine.start(stored=True))
        finally:
            sending.set()

    def adopt(self, connection: Connection, spec: TaskSpec, restored: Restored, *, started: bool) -> None:
        """Go on with a session that ran over an earlier connection of the device.

        `started`: its device took it. What it may not have got is sent again, under the same id.
        """
        session = self._open(connection, spec, restored=True)
        if session is not None:
            self._perform(session, session.machine.adopt(restored, started=started, now_s=time.monotonic()))

    def _open(self, connection: Connection, spec: TaskSpec, *, restored: bool) -> LiveSession | None:
        # A task that is handed to a socket that is closing would stay here, and be in the way when the device is back.
        if connection.closing is not None:
            return None
        before = self._sessions.get(spec.session_id)
        if before is not None:
            if before.spec.created_ms >= spec.created_ms:
                return None
            self._give_way(before)
        planner = self._planners.get(spec.planner)
        if planner is None:
            error = f"Planner '{spec.planner}' is not known to the node that holds the device"
            ending = Ending(spec.session_id, SessionState.FAILED, error=error, created_ms=spec.identity_ms)
            self._background.spawn(self._service.end_surely(ending), "session-end")
            return None
        machine = SessionMachine(
            spec,
            platform_named(self._platform or connection.platform),
            device_of(connection, self._echo_wait_s, self._command_timeout_s),
            device_driven=planner.device_driven,
            wants_tools=planner.wants_tools,
        )
        unstored = Unstored(spec, connection.generation, has_stored=restored)
        session = LiveSession(machine, connection, planner, self._timing(spec), unstored)
        self._sessions.add(session)
        # Of the time until the deadline a part may have been for waiting.
        left_s = min((spec.deadline_ms - now_ms()) / 1000, spec.timeout_s)
        self._deadlines.add(session, time.monotonic(), left_s)
        if self._deadline_timer is None:
            self._deadline_timer = asyncio.get_running_loop().call_later(TICK_S, self._look_at_deadlines)
        return session

    # -- inputs: the device says something -----------------------------------------------------------------------
    def on_echo(self, connection: Connection, message: ClientMessage) -> bool:
        """Join a device's `task` to the session that made it say so. False if there is none: the task is its own."""
        session = self._sessions.echoed_by(connection, message)
        if session is None:
            return message.session_id is None and message.task_name in connection.ended_tasks
        session.timing.acknowledged(message)
        self._perform(session, session.machine.echo())
        return True

    def on_results(self, connection: Connection, message: ClientMessage) -> None:
        """`command_results` from a device."""
        if self._tools.asked and self._tools.answer(connection, message):
            return
        session = self._sessions.meant_by(connection, message)
        effects = None
        if session is not None:
            session.timing.acknowledged(message)
            effects = session.machine.results(message, time.monotonic())
        if session is None or effects is None:
            self._metrics.dropped_results.inc()
            log.debug("results that nothing waits for", extra={"client_id": connection.client_id})
        else:
            self._perform(session, effects)

    def on_task_end(self, connection: Connection, message: ClientMessage) -> None:
        """`task_end` from a device: the session is over from its side."""
        session = self._sessions.meant_by(connection, message)
        if session is None:
            self._metrics.dropped_results.inc()
            return
        session.timing.acknowledged(message)
        self._perform(session, session.machine.device_ended(message))

    def on_too_large(self, connection: Connection, said: ClientMessage | None, why: str) -> None:
        """Results of a device are above a bound, now and however often: their session fails.

        Without `said`, which only tells whose they are, they are of any session that the device works on: all fail.
        """
        if said is None or not (said.session_id or said.prev_response_id):
            sessions = [s for s in self._sessions.over(connection) if s.machine.owed_by_device]
        else:
            meant = self._sessions.meant_by(connection, said)
            sessions = [] if meant is None else [meant]
        for session in sessions:
            self._perform(session, session.machine.failed(f"result too large: {why}"))

    # -- inputs: timers ------------------------------------------------------------------------------------------
    def _look_at_deadlines(self) -> None:
        for session in self._deadlines.due(time.monotonic()):
            self._perform(session, session.machine.deadline())
        again = asyncio.get_running_loop().call_later(TICK_S, self._look_at_deadlines) if self._deadlines else None
        self._deadline_timer = again

    def _on_echo_late(self, session: LiveSession) -> None:
        self._perform(session, session.machine.echo_late())

    def _on_unanswered(self, session: LiveSession, limit_s: float) -> None:
        self._perform(session, session.machine.unanswered(limit_s))

    # -- effects -------------------------------------------------------------------------------------------------
    def _perform(self, session: LiveSession, effects: Sequence[Effect]) -> None:
        if effects and session.timer is not None:
            # Whatever it waited for, the session goes on.
            session.timer.cancel()
            session.timer = None
        for effect in effects:
            self._perform_as[type(effect)](session, effect)
        if session.machine.running:
            session.timing.began()

    def _send(self, session: LiveSession, effect: Send) -> None:
        send_commands(session, effect.message, self._secrets)
        limit_s = effect.message.limit_s
        if limit_s is not None:
            on_late = partial(self._on_unanswered, session, limit_s)
            session.timer = asyncio.get_running_loop().call_later(limit_s, on_late)

    def _await_echo(self, session: LiveSession, _: AwaitEcho) -> None:
        session.timer = asyncio.get_running_loop().call_later(self._echo_wait_s, self._on_echo_late, session)

    def _plan(self, session: LiveSession, _: Plan) -> None:
        session.planning = self._background.spawn(self._ask(session), "session-plan")

    async def _ask(self, session: LiveSession) -> None:
        session.timing.enter()
        machine, connection = session.machine, session.connection
        planned = await self._planning.next(machine, session.planner, connection)
        answer, shown = planned.answer, []
        if isinstance(answer, Act):
            # A socket that is about to be moved gets no further step: it is made where its device comes back.
            await connection.released()
            answer = machine.number(answer)
            shown = [self._secrets.strip(c.command).model_dump(exclude_none=True) for c in answer.calls]
        self._perform(session, machine.planned(answer, new_id(), planned.event, shown))

    # -- effects: storing ----------------------------------------------------------------------------------------
    def _note_dispatched(self, session: LiveSession, _: NoteDispatched) -> None:
        self._noted(session, self._writer.note_dispatched(session.unstored, session.timing.facts))

    def _note(self, session: LiveSession, effect: Note) -> None:
        self._writer.note(session.unstored, effect.event)
        self._noted(session, effect.event)

    def _noted(self, session: LiveSession, event: dict[str, Any]) -> None:
        if self._late_timer is None:
            self._look_for_late_soon()
        if session.spec.owner and session.wants_progress:
            self._background.spawn(self._service.tell_progress(session.spec, event), "progress")

    def _store(self, session: LiveSession, effect: Store) -> None:
        self._background.spawn(self._store_step(session, effect), "session-store")

    async def _store_step(self, session: LiveSession, step: Store) -> None:
        session.timing.enter()
        if await self._stored(session, step) is not None:
            self._perform(session, session.machine.stored(time.monotonic()))

    async def _stored(self, session: LiveSession, step: Store) -> SessionState | None:
        """Store a step. The state that stands; None if the session is over here, or is now, as its device is told."""
        try:
            state = await self._writer.store(session.unstored, step)
        except Fenced:
            self._forget(session)
            return None
        except SessionNotFound:
            await self._drop(session, "The session is not stored (any more)")
            return None
        if state in TERMINAL:
            await self._ended_elsewhere(session)
            return None
        if state is not None and session.wants_progress:
            for event in step.events:
                await self._service.tell_progress(session.spec, event)
        return None if session.machine.over else state

    def _look_for_late_soon(self) -> None:
        at_s = self._writer.next_late_s()
        if at_s is not None:
            # A node that had no processor for a while would find this due before it has read what came: mostly ends.
            delay_s = max(0.0, at_s - time.monotonic()) + A_TURN_S
            self._late_timer = asyncio.get_running_loop().call_later(delay_s, self._look_for_late)

    def _look_for_late(self) -> None:
        self._late_timer = None
        for unstored in self._writer.late(time.monotonic()):
            session = self._sessions.get(unstored.spec.session_id)
            if session is None or session.unstored is not unstored:
                continue
            if session.connection.has_unsent:
                # What its socket has not taken is not dispatched yet.
                self._writer.look_again_at(unstored)
            else:
                self._background.spawn(self._store_late(session), "step-late")
        self._look_for_late_soon()

    async def _store_late(self, session: LiveSession) -> None:
        try:
            state = await self._writer.store_late(session.unstored)
        except Fenced:
            self._forget(session)
        except SessionNotFound:
            await self._drop(session, "The session is not stored (any more)")
        else:
            if state in TERMINAL:
                await self._ended_elsewhere(session)
        if self._late_timer is None:
            self._look_for_late_soon()

    # -- the end -------------------------------------------------------------------------------------------------
    def _end(self, session: LiveSession, end: End) -> None:
        together = may_travel_together(session, end)
        session.timing.ended(end.state)
        self._forget(session, ending=True)
        if not together:
            self._background.spawn(self._store_end(session, end), "session-end")
            return
        ending = ending_of(session, end)
        done = partial(self._on_batch_end, session, end, ending)
        try:
            self._state.end_batch.put(ending, deadline_ms=session.spec.deadline_ms, done=done)
        except (TypeError, ValueError):
            # It cannot be written as JSON: its own call says so.
            done(False)

    def _on_batch_end(self, session: LiveSession, end: End, ending: Ending, ended: bool) -> None:
        if ended:
            session.connection.taken.discard(session.spec.mark)
            self._service.note_end(ending, session.spec.client_id)
        else:
            self._background.spawn(store_end(self._service, session, end, ending), "session-end")

    async def _store_end(self, session: LiveSession, end: End) -> None:
        session.timing.enter()
        # What is on its way to Redis goes first: it may come back, and has to be stored with the end.
        await session.unstored.settled()
        await store_end(self._service, session, end, ending_of(session, end))

    def _forget(self, session: LiveSession, *, ending: bool = False) -> None:
        """Nothing of the session happens here any more. While its end is stored (`ending`), its id counts as taken."""
        session.stop()
        self._sessions.remove(session)
        self._deadlines.remove(session)
        connection = session.connection
        if not ending:
            connection.taken.discard(session.spec.mark)
            if session.unstored:
                self._background.spawn(self._writer.flush(session.unstored), "step-flush")
        if session.spec.owner != connection.client_id:
            # Its echo, or another, may be on its way still; a task of the device's own has none.
            connection.ended_tasks.append(session.spec.task_name)

    async def _drop(self, session: LiveSession, error: str) -> None:
        """Nothing is stored of the session: its dispatch did not come to its end, or Redis lost its data."""
        if session.machine.over:
            return
        self._forget(session)
        spec = session.spec
        send_end(session, error)
        try:
            # A repeated dispatch is to find the way free.
            await self._state.inbox.unpost(
                spec.client_id, SessionRef(spec.session_id, spec.deadline_ms, spec.created_ms)
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
        if session is not None and created_ms not in {None, session.spec.created_ms}:
            return
        if session is not None:
            await self._ended_elsewhere(session)
        elif connection is not None:
            try:
                end = await self._service.stored_end(session_id, created_ms)
            except StateUnavailable as exc:
                # It has no session here: what it still does for one it gives up with its deadline.
                log.info("a device is not told of an end", extra={"session_id": session_id, "reason": str(exc)})
                return
            if end is not None:
                connection.send(end)

    async def _ended_elsewhere(self, session: LiveSession) -> None:
        if not session.machine.over:
            self._forget(session)
            await tell_of_stored_end(self._service, session)

    def on_superseded(self, connection: Connection, session_id: str, created_ms: int) -> None:
        """A session gives way to another request under its id, which follows: the device stops it first."""
        session = self._sessions.get(session_id)
        if session is None:
            # It may have run over an earlier connection of the device.
            connection.send(task_end(session_id, "", SessionState.CANCELLED, None, SUPERSEDED))
        elif session.spec.created_ms == created_ms:
            self._give_way(session)

    def _give_way(self, session: LiveSession) -> None:
        """Stop a session here and on its device, whatever is stored of it: another one has its id."""
        self._forget(session)
        send_end(session, SUPERSEDED)

    # -- the socket is gone, or the node was ----------------------------------------------------------------------
    async def look_again(self) -> None:
        """This node was taken for dead: what others ended meanwhile is over here too. Raises StateUnavailable."""
        states = await self._state.sessions.states([s.session_id for s in self._sessions])
        for session_id, (state, _) in states.items():
            session = self._sessions.get(session_id)
            if state in TERMINAL:
                await self.on_ended_elsewhere(session_id)
            elif state is SessionState.SUSPENDED and session is not None:
                running = SessionState.RUNNING if session.machine.running else SessionState.DISPATCHED
                await self._stored(session, Store(running, ({"event": "resumed", "node_id": self._node_id},)))

    async def catch_up(self, connection: Connection) -> None:
        """Store what has happened over a socket that is gone, as far as Redis is there: others decide by it."""
        sessions = [s.unstored for s in self._sessions.over(connection) if s.unstored]
        await asyncio.gather(*map(self._writer.flush, sessions))

    def let_go(self, connection: Connection) -> list[str]:
        """The socket is gone, or another has taken its place: stop here what ran over it. Returns the session ids."""
        sessions = self._sessions.over(connection)
        for session in sessions:
            self._forget(session)
        return [s.session_id for s in sessions]
