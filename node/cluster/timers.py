"""Looks at what is due: absences that are over, tasks that may wait no longer, ends that nobody may have been told of.

Every node does, once a second, for the whole cluster; what one claims the others leave to it for a while, and take up
again if it dies with it. When Redis is away nothing is due.
"""

import asyncio
import logging

from aip_cluster.protocol.ids import now_ms
from node.sessions.service import SessionService
from node.sessions.suspension import Suspensions
from shared_state import State
from shared_state.delay_queue import CLAIM_AT_MOST, DueItem, DueKind
from shared_state.errors import StateError

__all__ = ["Expiry"]

log = logging.getLogger(__name__)


class Expiry:
    """The node's share in ending what is over."""

    def __init__(self, state: State, suspensions: Suspensions, service: SessionService) -> None:
        self._state = state
        self._service = service
        self._suspensions = suspensions

    async def run_once(self) -> None:
        """Deal with what is due now. Raises StateUnavailable; safe to repeat and to cancel."""
        while True:
            items = await self._state.delay_queue.claim()
            await asyncio.gather(*(self._look_at(item) for item in items))
            if len(items) < CLAIM_AT_MOST:
                return

    async def _look_at(self, item: DueItem) -> None:
        try:
            if await self._settle(item):
                await self._state.delay_queue.done(item)
        except StateError as exc:
            log.warning("cannot handle a due item; retrying later", extra={"item": item.item_id, "reason": str(exc)})

    async def _settle(self, item: DueItem) -> bool:
        if item.kind is DueKind.CLIENT:
            return await self._client(item.item_id)
        if item.kind is DueKind.SESSION:
            return await self._suspensions.waited_enough(item.item_id)
        await self._service.tell_again(item.item_id)
        return True

    async def _client(self, client_id: str) -> bool:
        absence = await self._state.clients.expire(client_id)
        if absence.over:
            await self._suspensions.end(client_id, absence.sessions)
            await self._suspensions.orphan(client_id, now_ms())
        if absence.ended_now:
            self._state.events.append("client_left", client_id=client_id)
            log.info(
                "client did not reconnect within the grace",
                extra={"client_id": client_id, "sessions": len(absence.sessions)},
            )
        return not absence.may_return
