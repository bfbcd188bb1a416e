"""Sessions that go on over a new connection of their device, wherever their last one was.

What a session did is in its journal, each step in full before it was sent. A step whose answer is not known is sent
once more, under the same id, to a device that recognises it; on any other the session ends, and says why: nobody knows
what was carried out. From the first step over the new connection on, older ones are fenced. If Redis is away in the
midst, what is left is resumed as soon as it is back.
"""

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from node.concurrency.background import Background
from node.connections.connection import Connection
from node.sessions.journal import Restored, restore
from node.sessions.planners import Planner, Planners, Tokens
from node.sessions.runner import Runner
from node.sessions.service import DEVICE_GONE, SessionService
from node.sessions.task_spec import TaskSpec
from shared_state import State
from shared_state.errors import Fenced, SessionNotFound
from shared_state.sessions import TERMINAL, Ending, Session, SessionState

__all__ = ["Resumption"]

log = logging.getLogger(__name__)

NOT_REPEATABLE = (
    "The connection broke while a command was under way, and the device does not recognise a command that it gets "
    "again: whether it was carried out is not known"
)
STARTED_ANEW = "The device was started anew while it worked on the task"


class Resumption:
    """Takes sessions over for the devices that register on this node."""

    def __init__(
        self,
        state: State,
        runner: Runner,
        service: SessionService,
        planners: Planners,
        background: Background,
        *,
        node_id: str,
        grace_s: float,
    ) -> None:
        self._state = state
        self._runner = runner
        self._service = service
        self._planners = planners
        self._background = background
        self._node_id = node_id
        self._grace = grace_s > 0
        self._postponed: WeakKeyDictionary[Connection, list[str]] = WeakKeyDictionary()

    async def resume(self, connection: Connection, session_ids: Sequence[str]) -> None:
        """Go on with those of a device's sessions that are not under way here. Raises StateUnavailable.

        Call it once the inbox has been read: what waits there is begun, not resumed.
        """
        if not connection.is_device:
            return  # another kind of client has taken the id; the sessions end when it leaves
        for session_id in session_ids:
            if connection.closing is None and session_id not in self._runner:
                await self._resume(connection, session_id)

    async def was_begun(self, connection: Connection, order: TaskSpec) -> bool:
        """Whether a task from the inbox was begun over an earlier connection: then it is resumed, not begun again.

        That connection makes no step any more from now on. A device that works on its own, and has not shown that it
        took the task, is to get it once more. Raises StateUnavailable.
        """
        if order.session_id in self._runner:
            return False
        state = await self._fence(connection, order.session_id)
        if state is None or state is SessionState.CREATED or state in TERMINAL:
            return False
        planner = self._planners.get(order.planner)
        if planner is None or not planner.device_driven:
            return planner is not None
        session = await self._state.sessions.find(order.session_id)
        return session is not None and session.started_ms is not None

    async def _fence(self, connection: Connection, session_id: str) -> SessionState | None:
        """Let no older connection make a step. The state; None if there is no session, or a newer one drives it."""
        try:
            return await self._state.sessions.advance(session_id, None, generation=connection.generation)
        except Fenced as exc:
            log.info("not resumed", extra={"session_id": session_id, "reason": str(exc)})
            return None
        except SessionNotFound:
            pass
        # Its dispatch did not come to its end, and is not looked at with every registration from now on.
        log.info("not resumed", extra={"session_id": session_id, "reason": "it is not stored"})
        await self._state.inbox.settle(connection.client_id, session_id)
        return None

    def later(self, connection: Connection, session_ids: Sequence[str]) -> None:
        """Redis is away: to be resumed with `resume_postponed`."""
        if session_ids:
            self._postponed[connection] = list(session_ids)

    async def resume_postponed(self) -> None:
        """Resume what could not be resumed before. Raises StateUnavailable."""
        for connection, session_ids in list(self._postponed.items()):
            await self.resume(connection, session_ids)
            del self._postponed[connection]

    async def _resume(self, connection: Connection, session_id: str) -> None:
        # First, so that the journal that is read then is whole: the old connection's node may not know yet.
        if await self._fence(connection, session_id) is None:
            return
        session = await self._state.sessions.find(session_id)
        if session is None:
            return
        if session.state in TERMINAL:
            # Its end was stored, and not yet noted with its device.
            await self._state.inbox.settle(connection.client_id, session_id)
            return
        try:
            order = TaskSpec.of(session)
            planner = self._planners.get(session.planner)
            if session.state is SessionState.CREATED or planner is None:
                self._runner.accept(connection, order, verify=True)
                return
            tokens = Tokens(session.prompt_tokens, session.completion_tokens)
            restored = restore(await self._state.sessions.journal(session_id), tokens)
        except (ValueError, KeyError):
            log.exception("a session cannot be read", extra={"session_id": session_id})
            return
        hindrance = _hindrance(connection, session, planner, restored)
        if not self._grace:
            # Nobody is waited for: what ran over the broken socket is over, as in UFO's server.
            self._give_up(connection, session, SessionState.CANCELLED, DEVICE_GONE)
        elif hindrance is not None:
            self._give_up(connection, session, SessionState.FAILED, hindrance)
        else:
            await self._take(connection, session, order, restored)

    async def _take(self, connection: Connection, session: Session, order: TaskSpec, restored: Restored) -> None:
        started = session.started_ms is not None
        state = SessionState.RUNNING if started else SessionState.DISPATCHED
        event = {"event": "resumed", "node_id": self._node_id}
        try:
            now = await self._state.sessions.advance(
                session.session_id, state, event=event, generation=connection.generation, node_id=self._node_id
            )
        except (Fenced, SessionNotFound) as exc:
            log.info("not resumed", extra={"session_id": session.session_id, "reason": str(exc)})
            return
        if now not in TERMINAL and connection.closing is None:
            self._runner.adopt(connection, order, restored, started=started)

    def _give_up(self, connection: Connection, session: Session, state: SessionState, why: str) -> None:
        # Not cut short with the registration: whoever asked for the task is told, also once Redis is back.
        self._background.spawn(self._end(session.session_id, state, why, connection.generation), "session-end")

    async def _end(self, session_id: str, state: SessionState, why: str, generation: int) -> None:
        try:
            ending = Ending(session_id, state, error=why, generation=generation)
            await self._service.end_surely(ending, stop_device=True)
        except Fenced as exc:
            log.info("not ended", extra={"session_id": session_id, "reason": str(exc)})


def _hindrance(connection: Connection, session: Session, planner: Planner, restored: Restored) -> str | None:
    """Why the session cannot go on over this connection, if it cannot."""
    if connection.recognises_repeats:
        return None
    if restored.act is not None:
        return NOT_REPEATABLE
    forgotten = planner.device_driven and connection.token_hash and session.started_ms is not None
    return STARTED_ANEW if forgotten else None
