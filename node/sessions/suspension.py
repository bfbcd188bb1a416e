"""What becomes of sessions whose device left: suspended while it may come back, ended once it may not; and of those
whose requester left for good.

A session whose task the device never took may be tried again, if whoever asked for it allowed that: its task then waits
in the device's inbox, until its deadline. One that waits for its device anyway is left to wait. Everything here is
repeated while Redis is away, and may be done by several nodes at once: the first end wins.
"""

import asyncio
import logging
from collections.abc import Sequence

from aip_cluster.protocol.ids import now_ms
from node.sessions.planners import Planners
from node.sessions.service import DEVICE_GONE, SessionService
from shared_state import State
from shared_state.delay_queue import DUE_MARGIN_S, DueKind
from shared_state.errors import Fenced, InboxFull, NotRegistered, SessionNotFound, StateUnavailable
from shared_state.inbox import task_message
from shared_state.keys import live_together
from shared_state.sessions import TERMINAL, Ended, EndIf, Ending, Session, SessionState

__all__ = ["ORPHANED", "ORPHAN_POLICY", "Suspensions"]

log = logging.getLogger(__name__)

ORPHANED = "Task was cancelled because the client that asked for it left"
# In a session's metadata.
ORPHAN_POLICY = "orphaned_sessions"
UNDER_WAY = frozenset({SessionState.DISPATCHED, SessionState.RUNNING})
CHUNK = 100


class Suspensions:
    """Suspends and ends the sessions of devices that left."""

    def __init__(self, state: State, service: SessionService, planners: Planners, node_id: str) -> None:
        self._state = state
        self._service = service
        self._planners = planners
        self._node_id = node_id

    async def suspend(self, session_ids: Sequence[str], generation: int) -> None:
        """Their device is away: have them wait, unless a connection newer than `generation` drives them by now.

        Best effort: a session that is not marked is resumed, or ended with its device's absence, all the same.
        """
        for start in range(0, len(session_ids), CHUNK):
            part = session_ids[start : start + CHUNK]
            await asyncio.gather(*(self._suspend(s, generation) for s in part))

    async def suspend_under_way(self, session_ids: Sequence[str], generation: int) -> None:
        """As `suspend`, for those of them that were handed to their device. Raises StateUnavailable."""
        states = await self._state.sessions.states(session_ids)
        await self.suspend([s for s, (state, _) in states.items() if state in UNDER_WAY], generation)

    async def _suspend(self, session_id: str, generation: int) -> None:
        event = {"event": "suspended", "node_id": self._node_id}
        try:
            await self._state.sessions.advance(session_id, SessionState.SUSPENDED, event=event, generation=generation)
        except (Fenced, SessionNotFound) as exc:
            log.debug("not suspended", extra={"session_id": session_id, "reason": str(exc)})
        except StateUnavailable as exc:
            log.warning("not marked as suspended", extra={"session_id": session_id, "reason": str(exc)})

    async def end(self, client_id: str, session_ids: Sequence[str]) -> None:
        """Their device `client_id` is gone: cancel them, but for those that may wait for it, or be tried again."""
        for start in range(0, len(session_ids), CHUNK):
            part = session_ids[start : start + CHUNK]
            await asyncio.gather(*(self._end(client_id, s) for s in part))

    async def _end(self, client_id: str, session_id: str) -> None:
        if await self._try_again(session_id):
            return
        ended = await self._cancel(session_id)
        if ended is None or (isinstance(ended, SessionState) and ended in TERMINAL):
            # Not stored (any more); or it ended before, and whoever ended it died before noting that here.
            await self._settle(client_id, session_id)

    async def _cancel(self, session_id: str) -> Ended | SessionState | None:
        ending = Ending(session_id, SessionState.CANCELLED, error=DEVICE_GONE, end_if=EndIf.GONE)
        return await self._service.end_surely(ending, stop_device=True)

    async def _settle(self, client_id: str, session_id: str) -> None:
        try:
            await self._state.inbox.settle(client_id, session_id)
        except StateUnavailable as exc:
            log.debug("settled with the device's next registration", extra={"reason": str(exc)})

    async def _try_again(self, session_id: str) -> bool:
        try:
            session = await self._state.sessions.find(session_id)
            if session is None or session.max_attempts <= session.attempts or _waits(session):
                return False
            return await self._requeue(session)
        except StateUnavailable as exc:
            log.warning("not tried again", extra={"session_id": session_id, "reason": str(exc)})
            return False

    async def _requeue(self, session: Session) -> bool:
        left_s = (session.deadline_ms - now_ms()) / 1000
        await self._state.delay_queue.add(DueKind.SESSION, session.session_id, max(0.0, left_s) + DUE_MARGIN_S)
        # A device that works on its own has taken a task once it was sent.
        planner = self._planners.get(session.planner)
        unsent = planner is None or planner.device_driven
        attempt = await self._state.sessions.requeue(session.session_id, session.attempts, unsent=unsent)
        if attempt is None:
            return False
        if live_together(session.session_id, session.client_id):
            # It waits by itself; its device may be here already.
            await self._state.inbox.wake(session.client_id)
            return True
        message = task_message(session)
        message_id = f"attempt:{session.session_id}:{attempt}"
        try:
            await self._state.inbox.post(session.client_id, message, message_id=message_id, wait_s=max(1.0, left_s))
        except (InboxFull, NotRegistered) as exc:
            log.warning("not tried again", extra={"session_id": session.session_id, "reason": str(exc)})
            return False
        return True

    async def orphan(self, owner: str, left_ms: int) -> None:
        """A client left for good at that time: what it asked for goes on, or is cancelled, as its session says.

        Its devices go on in either case with what others asked for; so does what the client itself has asked for since,
        over another socket. Raises StateUnavailable; safe to repeat.
        """
        session_ids = await self._state.asked.of(owner)
        for start in range(0, len(session_ids), CHUNK):
            part = session_ids[start : start + CHUNK]
            asked_since = await asyncio.gather(*(self._orphan(owner, s, left_ms) for s in part))
            await self._state.asked.forget(owner, [s for s, new in zip(part, asked_since, strict=True) if not new])

    async def _orphan(self, owner: str, session_id: str, left_ms: int) -> bool:
        """Returns whether it was asked for after its requester left: then nothing is done."""
        session = await self._state.sessions.find(session_id)
        if session is None or session.owner != owner or session.state in TERMINAL:
            return False
        if session.created_ms > left_ms:
            return True
        policy = session.metadata.get(ORPHAN_POLICY, "continue")
        event = {"event": "orphaned", "client_id": owner, ORPHAN_POLICY: policy}
        try:
            await self._state.sessions.advance(session_id, None, event=event, created_ms=session.created_ms)
            if policy == "cancel":
                ending = Ending(session_id, SessionState.CANCELLED, error=ORPHANED, created_ms=session.created_ms)
                await self._service.end(ending, stop_device=True)
        except (Fenced, SessionNotFound) as exc:
            log.debug("not orphaned", extra={"session_id": session_id, "reason": str(exc)})
        return False

    async def waited_enough(self, session_id: str) -> bool:
        """End a task that no device took in time. False if it may wait on. Raises StateUnavailable."""
        error = "The device did not connect in time to take the task"
        ending = Ending(session_id, SessionState.TIMED_OUT, error=error, end_if=EndIf.UNTAKEN)
        try:
            ended = await self._service.end(ending)
        except SessionNotFound:
            return True
        return isinstance(ended, Ended) or ended is not SessionState.CREATED


def _waits(session: Session) -> bool:
    """Whether its task waits for the device already: its time is the one it was given."""
    until_ms = session.queue_until_ms
    return session.state is SessionState.CREATED and until_ms is not None and until_ms > now_ms()
