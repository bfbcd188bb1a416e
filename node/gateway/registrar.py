"""Who comes and who goes: from a `register` frame to a registration in the shared state, and back.

The socket is in the hub before its registration is stored, so that no wake-up finds nobody; it is told so, and its
inbox is read, only afterwards. Leaving is the reverse. If Redis is away when a client leaves, the leave is kept and
repeated until it is stored; the registration's node lease bounds how long anyone could believe it meanwhile.
"""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import orjson

from aip import ClientMessage, ClientType, ProtocolError, ServerMessage, ServerMessageType
from aip.ids import check_client_id
from node.gateway.closing import Close
from node.gateway.connection import Connection, Delivery
from node.gateway.delivery import Deliverer
from node.gateway.hub import Hub
from node.gateway.profile import features_of, platform_of, profile_of
from node.sessions.runner import Runner
from shared_state import State
from shared_state.clients import Registration
from shared_state.errors import AlreadyRegistered, StateUnavailable

__all__ = ["Registrar", "RegistrationRefused"]

log = logging.getLogger(__name__)

RETRY_BASE_S = 0.2
RETRY_CAP_S = 2.0
CHUNK = 200
PROFILE_BYTES = 256 * 1024


class RegistrationRefused(Exception):
    """`str(error)` is for the client; `close` says how the socket ends, `label` how it is counted."""

    def __init__(self, error: str, close: Close, label: str) -> None:
        super().__init__(error)
        self.close = close
        self.label = label


def _bounded(profile: dict[str, Any]) -> bytes:
    raw = orjson.dumps(profile)
    if len(raw) > PROFILE_BYTES:
        raise ProtocolError(f"is larger than {PROFILE_BYTES} bytes", field="metadata")
    return raw


class Registrar:
    """Registers and deregisters the sockets of this node."""

    def __init__(self, state: State, hub: Hub, deliverer: Deliverer, runner: Runner, *, node_id: str) -> None:
        self._state = state
        self._hub = hub
        self._deliverer = deliverer
        self._runner = runner
        self._node_id = node_id
        self.stopping = False
        # Leaves that are not stored yet: if the node ends now, the reaper must find them.
        self._leaving: set[str] = set()
        self.failed = False

    # -- coming ----------------------------------------------------------------------------------------------------
    async def register(self, connection: Connection, message: ClientMessage) -> None:
        """Make the connection what its first message says.

        Raises ProtocolError, RegistrationRefused or StateUnavailable; then nothing is registered.
        """
        if not message.client_id:
            raise ProtocolError("Client ID is required", field="client_id")
        connection.client_id = check_client_id(message.client_id)
        connection.client_type = message.client_type
        if message.target_id:
            connection.target_id = check_client_id(message.target_id, "target_id")
        profile = profile_of(message)
        connection.platform = platform_of(profile)
        connection.features = features_of(profile)
        connection.payload_format = profile.get("aip_format") == "payload"
        connection.profile = _bounded(profile)
        async with self._hub.lock(connection.client_id):
            await self._check_target(connection)
            if not self._hub.add(connection):
                raise self._duplicate(connection)
            try:
                # Should this fail without an answer, it may be stored all the same: `leave` takes it back.
                await self._store(connection)
            except AlreadyRegistered:
                self._hub.remove(connection)
                raise self._duplicate(connection) from None
            connection.send(ServerMessage(type=ServerMessageType.HEARTBEAT))
            self._state.events.append(
                "client_registered",
                client_id=connection.client_id,
                client_type=connection.client_type.value,
                node_id=self._node_id,
            )
            log.info(
                "client registered",
                extra={
                    "client_id": connection.client_id,
                    "client_type": connection.client_type.value,
                    "platform": connection.platform,
                },
            )
        try:
            await self._deliverer.drain(connection)
        except StateUnavailable:
            log.warning("inbox not read yet", extra={"client_id": connection.client_id})

    async def _store(self, connection: Connection) -> None:
        """Store the registration. Raises AlreadyRegistered; under the client's lock only."""
        try:
            await self._state.clients.register(self.registration_of(connection))
        except AlreadyRegistered as exc:
            if exc.node_id != self._node_id:
                raise
            # The hub holds this client, so what is stored of this node is of a socket that is no more.
            await self._state.clients.deregister(connection.client_id, exc.connection_id)
            await self._state.clients.register(self.registration_of(connection))

    async def _check_target(self, connection: Connection) -> None:
        if connection.client_type is not ClientType.CONSTELLATION or not connection.target_id:
            return
        target = await self._state.clients.get(connection.target_id)
        if target is None or target.client_type != ClientType.DEVICE:
            raise RegistrationRefused(
                f"Target device '{connection.target_id}' is not connected", Close.BAD_REGISTRATION, "no_target"
            )

    @staticmethod
    def _duplicate(connection: Connection) -> RegistrationRefused:
        return RegistrationRefused(
            f"Client ID '{connection.client_id}' is already registered", Close.DUPLICATE_ID, "duplicate"
        )

    def registration_of(self, connection: Connection) -> Registration:
        """The connection as the shared state knows it."""
        return Registration(
            client_id=connection.client_id,
            node_id=self._node_id,
            connection_id=connection.connection_id,
            client_type=connection.client_type.value,
            platform=connection.platform,
            target_id=connection.target_id,
            features=connection.features,
            since_ms=connection.since_ms,
            profile=orjson.loads(connection.profile),
        )

    async def update_profile(self, connection: Connection, message: ClientMessage) -> None:
        """A device pushed a fresh profile. Raises StateUnavailable."""
        profile = profile_of(message)
        connection.profile = _bounded(profile)
        connection.features = features_of(profile) or connection.features
        await self._state.clients.touch(
            connection.client_id, connection.connection_id, profile=profile, features=connection.features
        )

    # -- going -----------------------------------------------------------------------------------------------------
    async def leave(self, connection: Connection) -> None:
        """The socket is gone: void what it held, and settle its sessions. Returns once that is stored."""
        if not connection.client_id:
            return
        async with self._hub.lock(connection.client_id):
            held = self._hub.remove(connection)
            if not held:
                return
            connection.delivery = Delivery.NOT_YET
            self._leaving.add(connection.connection_id)
            sessions = await self._deregister(connection)
        if self.failed:
            return  # the node is stopping without Redis: what cannot be settled now is the reaper's
        if connection.is_device:
            # Where another connection holds the client by now, only what ran over this one is over.
            await self._runner.on_device_gone(connection, sessions or [])
        self._leaving.discard(connection.connection_id)
        self._state.events.append("client_left", client_id=connection.client_id, node_id=self._node_id)
        log.info("client left", extra={"client_id": connection.client_id})

    async def _deregister(self, connection: Connection) -> list[str] | None:
        delay_s = RETRY_BASE_S
        while True:
            try:
                sessions = await self._state.clients.deregister(connection.client_id, connection.connection_id)
                await self._state.clients.unlist_on_node(self._node_id, connection.client_id)
            except StateUnavailable as exc:
                if self.stopping:
                    self.failed = True
                    log.warning("left for the reaper", extra={"client_id": connection.client_id, "reason": str(exc)})
                    return None
            else:
                return sessions
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RETRY_CAP_S)

    @property
    def settled(self) -> bool:
        """Whether everybody who left has been settled, and nobody is here."""
        return not self._leaving and not self.failed and not len(self._hub)

    # -- upkeep ----------------------------------------------------------------------------------------------------
    async def claim_again(self) -> None:
        """Store every registration of this node anew: Redis lost them, or another node settled them.

        A client that another node holds by now loses its socket here. Raises StateUnavailable; safe to repeat.
        """
        for part in self._registered():
            await asyncio.gather(*(self._claim(c) for c in part))

    async def keep_alive(self) -> None:
        """Touch the registrations of this node, so that they outlive their time to live. Raises StateUnavailable."""
        for part in self._registered():
            await asyncio.gather(*(self._touch(c) for c in part))

    def _registered(self) -> Iterator[list[Connection]]:
        """The registered sockets, in parts that travel together; those still registering do that by themselves."""
        registered = [c for c in self._hub if c.delivery is not Delivery.NOT_YET]
        for start in range(0, len(registered), CHUNK):
            yield registered[start : start + CHUNK]

    async def _claim(self, connection: Connection) -> None:
        async with self._hub.lock(connection.client_id):
            if self._hub.get(connection.client_id) is not connection:
                return  # it left meanwhile: nothing may bring it back
            await self._claim_alone(connection)

    async def _claim_alone(self, connection: Connection) -> None:
        try:
            await self._store(connection)
        except AlreadyRegistered:
            log.warning("another node holds the client by now", extra={"client_id": connection.client_id})
            connection.close(Close.LOST_REGISTRATION)

    async def _touch(self, connection: Connection) -> None:
        if not await self._state.clients.touch(connection.client_id, connection.connection_id):
            await self._claim(connection)

    async def note_signs_of_life(self) -> None:
        """Store when each client was last heard. Raises StateUnavailable."""
        seen = {c.client_id: c.last_seen_ms for c in self._hub if c.delivery is not Delivery.NOT_YET}
        if seen:
            await self._state.clients.note_seen(self._node_id, seen)
