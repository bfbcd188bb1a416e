"""Keeps the registrations of this node's sockets true: touched in time, claimed after a loss, compared after a gap.

A client that another socket holds by now loses its socket here. Every call raises StateUnavailable when Redis is away,
and is safe to repeat.
"""

import asyncio
import logging
from collections.abc import Iterator

from aip_cluster.protocol.ids import now_ms
from node.connections.connection import Connection
from node.connections.hub import Hub
from node.gateway.disconnect import Disconnect
from node.gateway.registrar import registration_of
from node.serving.close_codes import Close
from shared_state import State
from shared_state.clients import Proof
from shared_state.errors import AlreadyRegistered

__all__ = ["RegistrationUpkeep"]

log = logging.getLogger(__name__)

CHUNK = 200


class RegistrationUpkeep:
    """The registrations of this node, as a whole."""

    def __init__(self, state: State, hub: Hub, disconnect: Disconnect, *, node_id: str) -> None:
        self._state = state
        self._hub = hub
        self._disconnect = disconnect
        self._node_id = node_id
        # Whoever was heard before that, and not since, is noted as it is; 0 once the list was written anew.
        self._noted_ms = 0

    async def claim_again(self) -> None:
        """Store every registration of this node anew: Redis lost them, or another node settled them."""
        for part in self._registered():
            await asyncio.gather(*(self._claim(c) for c in part))

    async def keep_alive(self) -> None:
        """Touch the registrations of this node, so that they outlive their time to live."""
        for part in self._registered():
            await asyncio.gather(*(self._touch(c) for c in part))

    async def compare(self) -> None:
        """The bus was away, or Redis failed over: what the registry says of this node, and its sockets, are made one.

        Sockets whose client was taken over give way, registrations that were lost come back, those without a socket go.
        """
        for client_id in await self._state.clients.on_node(self._node_id):
            if self._hub.get(client_id) is None:
                await self._disconnect.drop_ghost(client_id)
        for part in self._registered():
            holders = await self._state.clients.holders([c.client_id for c in part])
            await asyncio.gather(*(self._claim(c) for c in part if holders[c.client_id] != c.connection_id))

    async def note_signs_of_life(self) -> None:
        """Store when each client was last heard: of those that said something since the last time."""
        asked_ms = now_ms()
        # A clock that was set back says nothing about who was heard since.
        since_ms = self._noted_ms if self._noted_ms <= asked_ms else 0
        seen = {c.client_id: c.last_seen_ms for c in self._hub if c.last_seen_ms >= since_ms and c.state.is_registered}
        if len(self._hub):
            await self._state.clients.note_seen(self._node_id, seen)
        self._noted_ms = asked_ms

    def _registered(self) -> Iterator[list[Connection]]:
        """The registered sockets, in parts that travel together; those still registering do that by themselves."""
        registered = [c for c in self._hub if c.state.is_registered]
        for start in range(0, len(registered), CHUNK):
            yield registered[start : start + CHUNK]

    async def _touch(self, connection: Connection) -> None:
        if not await self._state.clients.touch(connection.client_id, connection.connection_id):
            await self._claim(connection)

    async def _claim(self, connection: Connection) -> None:
        async with self._hub.lock(connection.client_id):
            if self._hub.get(connection.client_id) is not connection:
                return  # it left meanwhile: nothing may bring it back
            # Lists it as heard when it registered.
            self._noted_ms = 0
            registration = registration_of(connection, self._node_id)
            proof = Proof(new_token_hash=connection.token_hash, credential=connection.credential)
            try:
                admitted = await self._state.clients.register(
                    registration, proof=proof, generation=connection.generation
                )
            except AlreadyRegistered as held:
                log.warning("another socket holds the client now", extra={"client_id": connection.client_id})
                self._disconnect.give_way(connection, Close.LOST_REGISTRATION if not held.node_id else Close.TAKEN_OVER)
            else:
                connection.generation = admitted.generation
                # While nobody held the client, messages came for it without a word to this node.
                connection.state = connection.state.missed()
