"""How sessions end on the node that runs them: what is stored, and who is told.

A session that a device ends by itself, of which nothing but its start is stored and which nobody but REST asked for, is
ended together with the others of the moment (`shared_state.end_batch`). All others, and those that turn out to be more
than that, are ended by a call of their own, repeated until Redis is there. What another connection of the device drives
by now is let go of without a word (`Fenced`).
"""

import asyncio
import logging
from functools import partial
from typing import Any, Protocol

from aip_cluster.protocol import ServerMessage
from node.concurrency.background import Background
from node.sessions.local_session import LocalSession
from node.sessions.service import SessionService, task_end
from shared_state.end_batch import EndBatch
from shared_state.errors import Fenced, StateError
from shared_state.keys import live_together
from shared_state.sessions import Ending, SessionState

__all__ = ["Finisher"]

log = logging.getLogger(__name__)


class Forget(Protocol):
    """Takes a session out of what is under way; until its end is stored, unless `ended`, its id counts as taken."""

    def __call__(self, session: LocalSession, *, ended: bool) -> None: ...


class Finisher:
    """Ends sessions of this node, each once: whoever comes first."""

    def __init__(self, ends: EndBatch, service: SessionService, background: Background, forget: Forget) -> None:
        self._ends = ends
        self._service = service
        self._background = background
        self._forget = forget

    def finish_soon(self, session: LocalSession, state: SessionState, result: Any, error: str | None) -> None:
        """A device says that it is over: it need not be told. Never waits, never raises."""
        if session.storing is not None or not _is_simple(session):
            self._background.begin(self.finish(session, state, result, error, tell_device=False), "session-finish")
            return
        if session.over:
            return
        ending = self._take(session, state, result, error)
        done = partial(self._on_ended, session, ending)
        try:
            self._ends.put(ending, deadline_ms=session.order.deadline_ms, done=done)
        except (TypeError, ValueError):
            # It cannot be written as JSON: its own call says so.
            done(False)

    async def finish(
        self,
        session: LocalSession,
        state: SessionState,
        result: Any,
        error: str | None,
        *,
        tell_device: bool = True,
    ) -> None:
        """End a session, and tell whoever is to hear of it. Waits as long as Redis is away."""
        # What is on its way to Redis goes first: it may come back, and has to be stored with the end.
        while session.storing is not None:
            await asyncio.wait([session.storing])
        if not session.over:
            await self._store(session, self._take(session, state, result, error), tell_device=tell_device)

    async def tell_of_stored_end(self, session: LocalSession) -> None:
        """The device of a session hears how it has ended, whoever did it."""
        try:
            end: ServerMessage | None = await self._service.stored_end(session.session_id)
        except StateError:
            end = None
        nowhere = task_end(session.session_id, session.order.task_name, SessionState.CANCELLED, None, None)
        session.connection.send(end or nowhere)

    def _take(self, session: LocalSession, state: SessionState, result: Any, error: str | None) -> Ending:
        """The end that it is to have. From here on it is over on this node."""
        # A deadline passes for everybody; what a device or a planner says counts only over the newest connection.
        generation = None if state is SessionState.TIMED_OUT else session.connection.generation
        ending = Ending(
            session.session_id,
            state,
            result,
            error,
            generation=generation,
            client_id=session.order.client_id,
            created_ms=session.order.identity_ms,
            behind=session.take_behind(),
        )
        session.timing.ended(state)
        # Until its end is stored, it looks as if nobody had begun it.
        self._forget(session, ended=False)
        return ending

    async def _store(self, session: LocalSession, ending: Ending, *, tell_device: bool) -> None:
        try:
            ended = await self._service.end_surely(ending, owned=session.order.owner != "")
        except Fenced:
            log.info("the end of a session that is driven elsewhere", extra={"session_id": session.session_id})
            return
        finally:
            session.connection.taken.discard(session.order.mark)
        if isinstance(ended, SessionState):
            # Somebody else ended it first: the device hears of that end, not of ours.
            await self.tell_of_stored_end(session)
        elif tell_device:
            task_name = session.order.task_name
            end = task_end(session.session_id, task_name, ending.state, ending.result, ending.error)
            session.connection.send(end)

    def _on_ended(self, session: LocalSession, ending: Ending, ended: bool) -> None:
        if ended:
            session.connection.taken.discard(session.order.mark)
            self._service.note_end(ending, session.order.client_id)
        else:
            self._background.begin(self._store(session, ending, tell_device=False), "session-finish")


def _is_simple(session: LocalSession) -> bool:
    """Whether nothing but its start is stored, as far as is known here, and nobody is to be told of its end.

    What is traced has an end of its own: calls to Redis belong to its trace.
    """
    order = session.order
    return (
        not session.has_stored
        and order.owner == ""
        and not order.commands
        and session.timing.carried is None
        and live_together(session.session_id, order.client_id)
    )
