"""Who comes: from a `register` frame to a registration in the shared state.

The registration is stored first and the socket is put into the hub then; a message that is posted in between waits in
the inbox, which is read afterwards. Only then is the client told, and what it had under way goes on. A client id that
is held already goes to the newcomer only if that one proves to be the same client, or the holder's socket is dead.
Under one client's lock all of this, and leaving (`disconnect`), happen one after the other.
"""

import hashlib
import logging
import secrets
from typing import Any

import orjson

from aip_cluster.protocol import ClientMessage, ClientType, ProtocolError, ServerMessage, ServerMessageType
from aip_cluster.protocol.features import DEDUPLICATES, RESUME
from aip_cluster.protocol.ids import check_client_id
from node.connections.connection import Connection
from node.connections.hub import Hub
from node.gateway.delivery import Deliverer
from node.gateway.disconnect import Disconnect
from node.gateway.profile import features_of, platform_of, profile_of
from node.gateway.takeover import Probes
from node.serving.close_codes import Close
from node.sessions.resumption import Resumption
from node.telemetry.metrics import Metrics
from shared_state import State
from shared_state.bus import Bus
from shared_state.clients import Admitted, Proof, Registration
from shared_state.errors import AlreadyRegistered, StateError, StateUnavailable

__all__ = ["Registrar", "RegistrationRefused", "registration_of"]

log = logging.getLogger(__name__)

PROFILE_BYTES = 256 * 1024
TAKEOVER_TRIES = 3
TOKEN_FIELD = "resume_token"  # noqa: S105 - the name of a field


class RegistrationRefused(Exception):
    """`str(error)` is for the client; `close` says how the socket ends, `label` how it is counted."""

    def __init__(self, error: str, close: Close, label: str) -> None:
        super().__init__(error)
        self.close = close
        self.label = label


def registration_of(connection: Connection, node_id: str) -> Registration:
    """The connection as the shared state knows it."""
    return Registration(
        client_id=connection.client_id,
        node_id=node_id,
        connection_id=connection.connection_id,
        client_type=connection.client_type.value,
        platform=connection.platform,
        target_id=connection.target_id,
        features=connection.features,
        since_ms=connection.since_ms,
        profile=orjson.loads(connection.profile),
    )


class Registrar:
    """Registers the sockets of this node."""

    def __init__(
        self,
        state: State,
        bus: Bus,
        hub: Hub,
        deliverer: Deliverer,
        probes: Probes,
        disconnect: Disconnect,
        resumption: Resumption,
        metrics: Metrics,
        *,
        node_id: str,
    ) -> None:
        self._state = state
        self._bus = bus
        self._hub = hub
        self._deliverer = deliverer
        self._probes = probes
        self._disconnect = disconnect
        self._resumption = resumption
        self._metrics = metrics
        self._node_id = node_id

    async def register(self, connection: Connection, message: ClientMessage) -> None:
        """Make the connection what its first message says.

        Raises ProtocolError, RegistrationRefused or StateUnavailable; then nothing stays registered, at the latest when
        the socket is closed.
        """
        shown_token = _read(connection, message)
        token = secrets.token_urlsafe(24) if RESUME in connection.features else ""
        connection.token_hash = _hash(token)
        async with self._hub.lock(connection.client_id):
            await self._check_target(connection)
            proof = Proof(_hash(shown_token), connection.token_hash, connection.credential)
            admitted = await self._admit(connection, proof)
            await self._take_place(connection, admitted)
            # A process that was given a token and does not show it has been started anew, and remembers nothing.
            connection.recognises_repeats = DEDUPLICATES in connection.features and (
                admitted.proven or RESUME not in connection.features
            )
            acknowledgement = ServerMessage(type=ServerMessageType.HEARTBEAT)
            if token:
                acknowledgement.result = {TOKEN_FIELD: token}
            connection.keepalive.admit()
            connection.send(acknowledgement)
            self._note(connection)
        try:
            await self._deliverer.drain(connection)
            await self._resumption.resume(connection, admitted.sessions)
        except StateUnavailable as exc:
            self._resumption.later(connection, admitted.sessions)
            log.warning(
                "cannot read the inbox; retrying at the next renewal",
                extra={"client_id": connection.client_id, "reason": str(exc)},
            )

    async def _admit(self, connection: Connection, proof: Proof) -> Admitted:
        """Store the registration; where a socket holds the client, it is asked after first."""
        registration = registration_of(connection, self._node_id)
        # Should a call fail without an answer, it may be stored all the same: `leave` takes it back.
        connection.state = connection.state.registering()
        replace = ""
        for _ in range(TAKEOVER_TRIES):
            try:
                admitted = await self._state.clients.register(registration, proof=proof, replace=replace)
            except AlreadyRegistered as held:
                if not held.connection_id or await self._probes.is_alive(connection.client_id, held):
                    break
                replace = held.connection_id
            else:
                if admitted.replaced_connection:
                    how = "token" if admitted.proven else "silence"
                    self._metrics.takeovers.labels(how).inc()
                return admitted
        connection.state = connection.state.refused()
        raise RegistrationRefused(
            f"Client ID '{connection.client_id}' is already registered by a connection that is alive: "
            "use an id of your own, or close the other one",
            Close.DUPLICATE_ID,
            "duplicate",
        )

    async def _take_place(self, connection: Connection, admitted: Admitted) -> None:
        connection.generation = admitted.generation
        replaced = self._hub.put(connection)
        if replaced is not None:
            self._disconnect.give_way(replaced)
        if admitted.replaced_node not in {"", self._node_id}:
            try:
                await self._bus.tell(
                    admitted.replaced_node, "evict", connection.client_id, admitted.replaced_connection
                )
            except StateError as exc:
                log.warning("cannot tell the old socket's node about the take-over", extra={"reason": str(exc)})

    async def _check_target(self, connection: Connection) -> None:
        if connection.client_type is not ClientType.CONSTELLATION or not connection.target_id:
            return
        # A device that is away for a moment is still there for its orchestrator; so is one whose node has just died.
        target = await self._state.clients.find(connection.target_id)
        if target is None or target.client_type != ClientType.DEVICE:
            raise RegistrationRefused(
                f"Target device '{connection.target_id}' is not connected", Close.BAD_REGISTRATION, "no_target"
            )

    def _note(self, connection: Connection) -> None:
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

    async def update_profile(self, connection: Connection, message: ClientMessage) -> None:
        """A device pushed a fresh profile. Raises StateUnavailable."""
        profile, _ = _without_token(message)
        connection.profile = _bounded(profile)
        connection.features = features_of(profile) or connection.features
        await self._state.clients.touch(
            connection.client_id, connection.connection_id, profile=profile, features=connection.features
        )


def _read(connection: Connection, message: ClientMessage) -> str:
    """Fill the connection from its first message. Returns the resume token that it shows, '' for none."""
    if not message.client_id:
        raise ProtocolError("Client ID is required", field="client_id")
    connection.client_id = check_client_id(message.client_id)
    connection.client_type = message.client_type
    if message.target_id:
        connection.target_id = check_client_id(message.target_id, "target_id")
    profile, token = _without_token(message)
    connection.platform = platform_of(profile)
    connection.features = features_of(profile)
    connection.payload_format = profile.get("aip_format") == "payload"
    connection.profile = _bounded(profile)
    return token


def _without_token(message: ClientMessage) -> tuple[dict[str, Any], str]:
    """The profile, which anybody may read, and the resume token in it, which nobody may; '' for none."""
    profile = dict(profile_of(message))
    token = profile.pop(TOKEN_FIELD, None)
    return profile, token if isinstance(token, str) else ""


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest() if token else ""


def _bounded(profile: dict[str, Any]) -> bytes:
    raw = orjson.dumps(profile)
    if len(raw) > PROFILE_BYTES:
        raise ProtocolError(f"is larger than {PROFILE_BYTES} bytes", field="metadata")
    # A copy, of its own size: orjson's bytes keep the buffer that they were written into, of 4 KB at least.
    return bytes(memoryview(raw))
