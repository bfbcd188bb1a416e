"""Settles nodes that died: what they held is as if every one of their sockets had broken.

Any node may do it, one at a time: a lock in Redis that runs out by itself. A node reaps only after it has held its own
lease for a full term, so that nobody is declared dead because Redis was away for everybody. Whatever is left undone by
a reaper that dies is found by the next one, since the dead node's list of clients goes last.
"""

import asyncio
import logging

from node.sessions.suspension import Suspensions
from node.telemetry.metrics import Metrics
from shared_state import State
from shared_state.delay_queue import DUE_MARGIN_S, DueKind

__all__ = ["Reaper"]

log = logging.getLogger(__name__)

CHUNK = 50


class Reaper:
    """Removes nodes whose lease has ended."""

    def __init__(
        self, state: State, suspensions: Suspensions, metrics: Metrics, *, node_id: str, grace_s: float
    ) -> None:
        self._state = state
        self._suspensions = suspensions
        self._metrics = metrics
        self._node_id = node_id
        self._grace_s = grace_s

    async def reap(self, dead: tuple[str, ...]) -> None:
        """Settle these nodes, unless another node is at it. Raises StateUnavailable; safe to repeat."""
        if not await self._state.nodes.try_reap(self._node_id):
            return
        try:
            for node_id in dead:
                await self._settle(node_id)
        finally:
            await self._state.nodes.reaped(self._node_id)

    async def _settle(self, node_id: str) -> None:
        clients = list(await self._state.clients.on_node(node_id))
        for start in range(0, len(clients), CHUNK):
            await asyncio.gather(*(self._settle_client(c, node_id) for c in clients[start : start + CHUNK]))
        await self._state.clients.drop_node_list(node_id)
        await self._state.nodes.release(node_id)
        self._metrics.reaped_nodes.inc()
        self._state.events.append("node_died", node_id=node_id, clients=len(clients))
        log.warning("removed the registrations of a dead node", extra={"dead_node": node_id, "clients": len(clients)})

    async def _settle_client(self, client_id: str, node_id: str) -> None:
        # Before the absence: whoever is away is looked at when it may be so no longer.
        await self._state.delay_queue.add(DueKind.CLIENT, client_id, self._grace_s + DUE_MARGIN_S)
        left = await self._state.clients.reap(client_id, node_id, away_s=self._grace_s)
        if not left.held:
            return  # it is back already, elsewhere: its sessions went with it
        if self._grace_s > 0:
            await self._suspensions.suspend_under_way(left.sessions, left.generation)
        else:
            await self._suspensions.end(client_id, left.sessions)
