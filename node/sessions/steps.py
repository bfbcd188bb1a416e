"""Stores the steps of the sessions that run on this node.

A step that commits the node to something (commands that are about to be sent) is stored before it is taken, and waits
for Redis, however long: sent without being stored, it would be sent once more by whoever takes the session over, under
another id. What merely happened (a task was handed to its device, results came) is noted *behind*: it travels with the
next step or with the end, and is stored by itself if neither comes within `BEHIND_S`. A node that dies in that moment
leaves a task that looks as if its device had never got it; it is handed over once more, under the same id.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from aip_cluster.protocol.ids import now_ms
from node.concurrency.background import Background
from node.sessions.local_session import BEHIND_BOUND, LocalSession
from node.sessions.service import SessionService
from shared_state import State
from shared_state.errors import Fenced, SessionNotFound, StateUnavailable
from shared_state.session_record import event_json
from shared_state.sessions import TERMINAL, SessionState

__all__ = ["Steps"]

log = logging.getLogger(__name__)

RETRY_BASE_S = 0.1
RETRY_CAP_S = 1.0
# Of what merely happened: thousands of sessions may have something behind while Redis is away.
BEHIND_RETRY_CAP_S = 5.0
BEHIND_S = 0.05
# In which the event loop looks at all sockets.
A_TURN_S = 0.001
OnLate = Callable[[LocalSession], Coroutine[Any, Any, None]]


class Steps:
    """Writes to the sessions of this node. `on_late` stores, with `store`, what is behind for too long."""

    def __init__(
        self, state: State, service: SessionService, background: Background, node_id: str, *, on_late: OnLate
    ) -> None:
        self._state = state
        self._service = service
        self._background = background
        self._on_late = on_late
        self._node_id = node_id
        # What is noted of every task that is in no trace.
        self._dispatched = event_json({"event": "dispatched", "node_id": node_id})
        # For whom something was noted, and when: most have stored it, or have ended, since.
        self._late: deque[tuple[float, LocalSession]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    # -- at once -----------------------------------------------------------------------------------------------------
    async def store(
        self,
        session: LocalSession,
        state: SessionState | None,
        event: dict[str, Any] | None,
        *,
        journal: Sequence[Mapping[str, Any]] = (),
        fields: Mapping[str, str] = MappingProxyType({}),
    ) -> SessionState | None:
        """Store a step, and what is behind. Returns the state that stands, or None if the session was stopped here.

        Raises Fenced if a newer connection drives it, and SessionNotFound. Cancelling is safe: the step may be stored.
        """
        if event is not None:
            # Where it belongs among what is behind, however often it is tried.
            session.behind.events.append((now_ms(), event_json(event)))
        now, delay_s = None, RETRY_BASE_S
        while now is None and await self._in_turn(session):
            behind = session.take_behind()
            stored = session.storing = asyncio.get_running_loop().create_future()
            session.has_stored = True
            try:
                now = await self._state.sessions.advance(
                    session.session_id,
                    state,
                    event=None,
                    generation=session.connection.generation,
                    created_ms=session.order.identity_ms,
                    journal=journal,
                    behind=behind,
                    node_id=self._node_id,
                    **fields,
                )
            except StateUnavailable as exc:
                needed = state is not None or len(journal) > 0
                level = logging.WARNING if needed else logging.DEBUG
                log.log(level, "step not stored", extra={"session_id": session.session_id, "reason": str(exc)})
                session.put_behind(behind)
                if not needed:
                    return SessionState.RUNNING
            finally:
                session.storing = None
                stored.set_result(None)
            if now is None:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_CAP_S)
        if now is not None and now not in TERMINAL and event is not None:
            await self._tell_progress(session, event)
        return now

    @staticmethod
    async def _in_turn(session: LocalSession) -> bool:
        """Wait until nothing of the session is being stored: its steps stay in order. False if it is over."""
        while session.storing is not None:
            await asyncio.wait([session.storing])
        return not session.over

    # -- behind ------------------------------------------------------------------------------------------------------
    def note_dispatched(self, session: LocalSession) -> None:
        """The task was handed to its device."""
        at_ms = now_ms()
        session.behind.stamps["dispatched_ms"] = at_ms
        facts = session.timing.facts
        event = {"event": "dispatched", "node_id": self._node_id, **facts}
        self._note(session, at_ms, event_json(event) if facts else self._dispatched)
        if _wants_progress(session):
            self._background.spawn(self._service.tell_progress(session.order, event), "progress")

    async def note(self, session: LocalSession, event: dict[str, Any]) -> None:
        """Something happened. Waits only for progress to be told to whoever asked for it."""
        self._note(session, now_ms(), event_json(event))
        await self._tell_progress(session, event)

    async def flush(self, sessions: Iterable[LocalSession]) -> None:
        """Store what is behind of sessions that this node lets go. Best effort: gives up if Redis is away."""
        await asyncio.gather(*(self._flush_one(s) for s in sessions if s.has_behind))

    def _note(self, session: LocalSession, at_ms: int, noted: bytes) -> None:
        if len(session.behind.events) < BEHIND_BOUND:
            session.behind.events.append((at_ms, noted))
            self._will_be_late(session)

    def _will_be_late(self, session: LocalSession) -> None:
        self._late.append((time.monotonic(), session))
        if self._timer is None:
            self._look_after(BEHIND_S)

    def _look_after(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._look_soon)

    def _look_soon(self) -> None:
        """A node that had no processor for a while finds this due before it has read what came: mostly ends."""
        self._timer = asyncio.get_running_loop().call_later(A_TURN_S, self._look_for_late)

    def _look_for_late(self) -> None:
        """The oldest is late now. Whoever has waited half as long goes with it, so that there are not many such looks;
        but not all: most sessions under way end in a moment, and what is behind travels with that."""
        self._timer = None
        now = time.monotonic()
        since, unsent = now - BEHIND_S / 2, []
        while self._late and self._late[0][0] <= since:
            _, session = self._late.popleft()
            if not session.behind or session.over or session.storing_behind:
                continue
            if session.connection.has_unsent:
                # What its socket has not taken is not dispatched yet.
                unsent.append(session)
            else:
                self._background.begin(self._store_behind(session), "step-behind")
        if self._late and self._timer is None:
            self._look_after(self._late[0][0] + BEHIND_S - now)
        for session in unsent:
            self._will_be_late(session)

    async def _store_behind(self, session: LocalSession) -> None:
        """One at a time for a session: while Redis is away it waits, and takes along what happens meanwhile."""
        session.storing_behind, delay_s = True, RETRY_BASE_S
        try:
            while session.behind.events and not session.over:
                oldest = session.behind.events[0]
                await self._on_late(session)
                if not session.behind.events or session.behind.events[0] is not oldest:
                    break
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, BEHIND_RETRY_CAP_S)
        finally:
            session.storing_behind = False
            if session.behind and not session.over:
                self._will_be_late(session)

    async def _flush_one(self, session: LocalSession) -> None:
        await self._in_turn(session)
        behind = session.take_behind()
        if not behind:
            return
        session.has_stored = True
        state = SessionState.DISPATCHED if "dispatched_ms" in behind.stamps else None
        try:
            await self._state.sessions.advance(
                session.session_id,
                state,
                generation=session.connection.generation,
                created_ms=session.order.identity_ms,
                behind=behind,
                node_id=self._node_id,
            )
        except StateUnavailable as exc:
            log.warning("what happened is not stored", extra={"session_id": session.session_id, "reason": str(exc)})
        except (Fenced, SessionNotFound) as exc:
            log.info("what happened is not stored", extra={"session_id": session.session_id, "reason": str(exc)})

    async def _tell_progress(self, session: LocalSession, event: dict[str, Any]) -> None:
        if _wants_progress(session):
            await self._service.tell_progress(session.order, event)


def _wants_progress(session: LocalSession) -> bool:
    return bool(session.order.owner) and session.order.metadata.get("progress") is True
