"""Who goes: from a socket that is gone to what the shared state says of its client.

A client that said goodbye (close 1000) is gone. One whose socket broke, or was closed by this node, is away for
`reconnect_grace_s`: its registration waits, its sessions are suspended, and any node may welcome it back. A socket that
another took over from leaves nothing behind but itself. If Redis is away when a client leaves, the leave is kept and
repeated until it is stored; the node's lease bounds how long anyone could believe the registration meanwhile.
"""

import asyncio
import logging

from aip_cluster.protocol.backoff import Backoff
from aip_cluster.protocol.ids import now_ms
from node.connections.connection import Connection
from node.connections.hub import Hub
from node.serving.close_codes import Close
from node.sessions.runner import Runner
from node.sessions.suspension import Suspensions
from shared_state import State
from shared_state.clients import Left
from shared_state.delay_queue import DUE_MARGIN_S, DueKind
from shared_state.errors import StateUnavailable

__all__ = ["Disconnect"]

log = logging.getLogger(__name__)

RETRY_BASE_S = 0.2
RETRY_CAP_S = 2.0


class Disconnect:
    """Settles the sockets of this node that are gone."""

    def __init__(
        self, state: State, hub: Hub, runner: Runner, suspensions: Suspensions, *, node_id: str, grace_s: float
    ) -> None:
        self._state = state
        self._hub = hub
        self._runner = runner
        self._suspensions = suspensions
        self._node_id = node_id
        self._grace_s = grace_s
        self.stopping = False
        # Leaves that are not stored yet: if the node ends now, the reaper must find them.
        self._under_way: set[str] = set()
        self._failed = False

    async def leave(self, connection: Connection, *, in_order: bool) -> None:
        """The socket is gone: end what it held, or have it wait. Returns once that is stored.

        `in_order`: the client said goodbye; its socket did not just break.
        """
        if not connection.client_id:
            return
        left_ms = now_ms()
        async with self._hub.lock(connection.client_id):
            if not connection.state.may_be_stored:
                return  # it was never stored, or another has taken its place
            self._hub.remove(connection)
            connection.state = connection.state.gone()
            self._under_way.add(connection.connection_id)
            await self._runner.catch_up(connection)
            mine = self._runner.let_go(connection)
            away_s = 0.0 if in_order else self._grace_s
            left = await self._store(connection, away_s)
        if left is None:
            return  # the node is stopping without Redis: what cannot be settled now is the reaper's
        if left.held and away_s > 0:
            await self._suspensions.suspend(mine, connection.generation)
        elif left.held:
            await self._suspensions.end(connection.client_id, left.sessions)
            await self._orphan(connection.client_id, left_ms)
        self._under_way.discard(connection.connection_id)
        self._state.events.append(
            "client_away" if away_s else "client_left", client_id=connection.client_id, node_id=self._node_id
        )
        log.info("client left", extra={"client_id": connection.client_id, "away_s": away_s})

    async def _orphan(self, client_id: str, left_ms: int) -> None:
        try:
            await self._suspensions.orphan(client_id, left_ms)
        except StateUnavailable as exc:
            log.warning(
                "cannot suspend the client's sessions yet; retrying when the grace ends",
                extra={"client_id": client_id, "reason": str(exc)},
            )

    async def _store(self, connection: Connection, away_s: float) -> Left | None:
        backoff = Backoff(RETRY_BASE_S, RETRY_CAP_S)
        while True:
            try:
                if away_s > 0 or connection.awaits_ends:
                    # Before the absence: whoever is away is looked at when it may be so no longer.
                    await self._state.delay_queue.add(DueKind.CLIENT, connection.client_id, away_s + DUE_MARGIN_S)
                left = await self._state.clients.leave(connection.client_id, connection.connection_id, away_s=away_s)
                await self._state.clients.unlist_on_node(self._node_id, connection.client_id)
            except StateUnavailable as exc:
                if self.stopping:
                    self._failed = True
                    log.warning(
                        "cannot remove the registration; the reaper will",
                        extra={"client_id": connection.client_id, "reason": str(exc)},
                    )
                    return None
            else:
                return left
            await asyncio.sleep(backoff.next_s())

    async def drop_ghost(self, client_id: str) -> None:
        """The registry believes in a socket of this node that is not there: a goodbye was lost, with a failover.

        Raises StateUnavailable; safe to repeat.
        """
        async with self._hub.lock(client_id):
            if self._hub.get(client_id) is not None:
                return
            await self._state.delay_queue.add(DueKind.CLIENT, client_id, self._grace_s + DUE_MARGIN_S)
            left = await self._state.clients.reap(client_id, self._node_id, away_s=self._grace_s)
            await self._state.clients.unlist_on_node(self._node_id, client_id)
        if not left.held:
            return
        log.warning("removed a registration without a socket", extra={"client_id": client_id})
        if self._grace_s > 0:
            await self._suspensions.suspend_under_way(left.sessions, left.generation)
        else:
            await self._suspensions.end(client_id, left.sessions)

    # -- sockets that lost their client ------------------------------------------------------------------------------
    def give_way(self, connection: Connection, why: Close = Close.TAKEN_OVER) -> None:
        """Another socket holds the client by now: this one has nothing left but to be closed."""
        log.info("socket closed for a take-over", extra={"client_id": connection.client_id})
        self._hub.remove(connection)
        connection.state = connection.state.gone()
        self._runner.let_go(connection)
        connection.close(why)

    async def on_evict(self, rest: bytes) -> None:
        """A frame `<client>\\n<connection>`: another node's socket took the client over from one of ours."""
        client_id, _, connection_id = rest.decode().partition("\n")
        # The socket may be registering still, its place in the hub not taken: it lost the client all the same.
        async with self._hub.lock(client_id):
            connection = self._hub.get(client_id)
            if connection is None or connection.connection_id != connection_id:
                return
            self.give_way(connection)
            try:
                await self._state.clients.unlist_on_node(self._node_id, client_id)
            except StateUnavailable:
                log.debug("cannot update the node's list of clients; retrying with the next change")

    @property
    def settled(self) -> bool:
        """Whether everybody who left has been settled, and nobody is here."""
        return not self._under_way and not self._failed and not len(self._hub)
