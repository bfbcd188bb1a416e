"""Stores the steps of the sessions that run on this node, before they are taken.

A step that moves a session on waits for Redis, however long: sent without being stored, it would be sent once more by
whoever takes the session over, under another id. A mere event is given up when Redis is away.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from node.sessions.local_session import LocalSession
from node.sessions.service import SessionService
from shared_state import State
from shared_state.errors import SessionNotFound, StateUnavailable
from shared_state.sessions import TERMINAL, SessionState

__all__ = ["Steps"]

log = logging.getLogger(__name__)

RETRY_BASE_S = 0.1
RETRY_CAP_S = 1.0
# How long a session is waited for that its task overtook: longer than a dispatch takes to store it the second time.
UNSTORED_PATIENCE_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


class Steps:
    """Writes to the sessions of this node."""

    def __init__(self, state: State, service: SessionService, node_id: str) -> None:
        self._state = state
        self._service = service
        self._node_id = node_id

    async def store(
        self,
        session: LocalSession,
        state: SessionState | None,
        event: dict[str, Any],
        *,
        journal: Sequence[Mapping[str, Any]] = (),
        fields: Mapping[str, str],
    ) -> SessionState | None:
        """Store a step. Returns the state that stands, or None if the session was stopped here meanwhile.

        Raises Fenced if a newer connection drives it, and SessionNotFound. Cancelling is safe: the step may be stored.
        """
        patience = iter(UNSTORED_PATIENCE_S if state is SessionState.DISPATCHED else UNSTORED_PATIENCE_S[:1])
        delay_s = RETRY_BASE_S
        while not session.over:
            try:
                now = await self._state.sessions.advance(
                    session.session_id,
                    state,
                    event=event,
                    generation=session.connection.generation,
                    journal=journal,
                    node_id=self._node_id,
                    **fields,
                )
            except SessionNotFound:
                # The task may have overtaken its session: they live in different slots.
                wait_s = next(patience, None)
                if wait_s is None:
                    raise
                await asyncio.sleep(wait_s)
            except StateUnavailable as exc:
                log.warning("step not stored", extra={"session_id": session.session_id, "reason": str(exc)})
                if state is None and not journal:
                    return SessionState.RUNNING
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_CAP_S)
            else:
                if now not in TERMINAL and session.order.owner and session.order.metadata.get("progress") is True:
                    await self._service.tell_progress(session.order, event)
                return now
        return None
