"""Which client is held by which connection of which node.

A registration is a hash that only the connection which wrote it may change (fencing): each change names its
connection id and does nothing if another holds the client by then, so the late clean-up of an old socket never touches
a newer one. A registration whose node has no lease is void: readers leave it out, and newcomers replace it.

Each node lists its clients in a hash of its own, so that a listing reads as many keys as there are nodes, and a dead
node's clients can be found. That hash is written before the registration and removed after it.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson

from shared_state.connection import Connection
from shared_state.errors import AlreadyRegistered
from shared_state.keys import Keys
from shared_state.nodes import Nodes

__all__ = ["Clients", "Registration"]

REGISTRATION_LIFE_S = 900
NODE_CLIENTS_LIFE_S = 86_400
CHUNK = 500

_FIELDS = ("node_id", "connection_id", "client_type", "platform", "target_id", "features", "since_ms")


@dataclass(frozen=True, slots=True)
class Registration:
    """A registered client. `profile` is filled only where it was asked for; `last_seen_ms` likewise."""

    client_id: str
    node_id: str
    connection_id: str
    client_type: str
    platform: str = ""
    target_id: str = ""
    features: frozenset[str] = frozenset()
    since_ms: int = 0
    last_seen_ms: int | None = None
    profile: dict[str, Any] | None = None


class Clients:
    """Registrations, with fencing by connection id."""

    def __init__(self, connection: Connection, keys: Keys, nodes: Nodes) -> None:
        self._redis = connection
        self._keys = keys
        self._nodes = nodes

    # -- writing, in the order a registration lives ------------------------------------------------------------
    async def register(self, registration: Registration) -> None:
        """Store `registration` (its `profile` too), safe to repeat by the same connection.

        Raises AlreadyRegistered if a connection of a live node holds the client; a dead node's is replaced.
        """
        replace = ""
        while True:
            reply = await self._write(registration, replace)
            if reply[0] == 1:
                return
            node_id, connection_id = reply[1].decode(), reply[2].decode()
            # Twice the same answer: what was to be replaced is held anew, under an id that is never used twice.
            held = replace == connection_id or node_id in await self._nodes.live()
            if held or node_id == registration.node_id:
                if node_id != registration.node_id:
                    await self.unlist_on_node(registration.node_id, registration.client_id)
                raise AlreadyRegistered(registration.client_id, node_id, connection_id)
            replace = connection_id

    async def _write(self, r: Registration, replace: str) -> list[Any]:
        fields: list[str | bytes | int] = [
            *("node_id", r.node_id, "client_type", r.client_type, "platform", r.platform),
            *("target_id", r.target_id, "features", ",".join(sorted(r.features)), "since_ms", r.since_ms),
        ]
        if r.profile is not None:
            fields += ["profile", orjson.dumps(r.profile)]
        # Before the registration, in the same pipeline: whatever is registered can be found by the node's reaper.
        listed = asyncio.gather(
            self._redis.command("HSET", self._keys.node_clients(r.node_id), r.client_id, r.since_ms),
            self._redis.command("EXPIRE", self._keys.node_clients(r.node_id), NODE_CLIENTS_LIFE_S),
        )
        reply: list[Any] = await self._redis.script(
            "client_register",
            [self._keys.registration(r.client_id)],
            [r.connection_id, replace, REGISTRATION_LIFE_S * 1000, *fields],
        )
        await listed
        return reply

    async def touch(
        self,
        client_id: str,
        connection_id: str,
        *,
        profile: dict[str, Any] | None = None,
        features: frozenset[str] | None = None,
    ) -> bool:
        """Keep the registration for another 15 minutes, with a new profile if given. False: not ours any more."""
        fields: list[str | bytes] = [] if profile is None else ["profile", orjson.dumps(profile)]
        if features is not None:
            fields += ["features", ",".join(sorted(features))]
        held = await self._redis.script(
            "client_touch",
            [self._keys.registration(client_id)],
            [connection_id, REGISTRATION_LIFE_S * 1000, *fields],
        )
        return bool(held)

    async def deregister(self, client_id: str, connection_id: str) -> list[str] | None:
        """Void the registration if this connection holds it.

        Returns the ids of the sessions under way on the client, or None if somebody else holds it by now.
        Safe to repeat.
        """
        voided, sessions = await self._void(client_id, "connection_id", connection_id)
        return sessions if voided else None

    async def reap(self, client_id: str, node_id: str) -> tuple[bool, list[str]]:
        """Void the registration if it is still held by `node_id`, which is dead.

        Returns whether nobody holds the client now, and the ids of the sessions under way on it, whosever they are.
        """
        return await self._void(client_id, "node_id", node_id)

    async def _void(self, client_id: str, field: str, value: str) -> tuple[bool, list[str]]:
        reply = await self._redis.script(
            "client_deregister",
            [self._keys.registration(client_id), self._keys.active(client_id)],
            [field, value],
        )
        return reply[0] == 1, [s.decode() for s in reply[1:]]

    # -- the list of a node --------------------------------------------------------------------------------------
    async def note_seen(self, node_id: str, last_seen_ms: dict[str, int]) -> None:
        """Note when clients of `node_id` were last heard; those who left meanwhile are not listed again."""
        pairs = [x for pair in last_seen_ms.items() for x in pair]
        for start in range(0, len(pairs), 2 * CHUNK):
            await self._redis.script(
                "node_seen",
                [self._keys.node_clients(node_id)],
                [NODE_CLIENTS_LIFE_S, *pairs[start : start + 2 * CHUNK]],
            )

    async def unlist_on_node(self, node_id: str, client_id: str) -> None:
        """Take a client off the node's list. Safe to repeat."""
        await self._redis.command("HDEL", self._keys.node_clients(node_id), client_id)

    async def drop_node_list(self, node_id: str) -> None:
        """Remove the whole list of a node that is gone. Safe to repeat."""
        await self._redis.command("DEL", self._keys.node_clients(node_id))

    async def on_node(self, node_id: str) -> dict[str, int]:
        """Clients of `node_id`, each with the time of its last sign of life in ms."""
        reply = await self._redis.command("HGETALL", self._keys.node_clients(node_id))
        return {k.decode(): int(v) for k, v in reply.items()}

    # -- reading -------------------------------------------------------------------------------------------------
    async def online_ids(self) -> list[str]:
        """Ids of all clients held by live nodes, sorted."""
        ids: set[str] = set()
        for node_id in await self._nodes.live():
            ids.update(k.decode() for k in await self._redis.command("HKEYS", self._keys.node_clients(node_id)))
        return sorted(ids)

    async def find(self, client_id: str) -> Registration | None:
        """The registration without its profile, as stored: the caller judges whether the node is alive.

        This is the look-up of every dispatch; a dead node's registration is removed by the reaper within the lease.
        """
        values = await self._redis.command("HMGET", self._keys.registration(client_id), *_FIELDS)
        return _parse(client_id, values) if values[0] else None

    async def get(self, client_id: str) -> Registration | None:
        """The registration with profile and last sign of life, or None if no live node holds the client."""
        values = await self._redis.command("HMGET", self._keys.registration(client_id), *_FIELDS, "profile")
        if not values[0] or values[0].decode() not in await self._nodes.live():
            return None
        seen = await self._redis.command("HGET", self._keys.node_clients(values[0].decode()), client_id)
        return _parse(client_id, values, int(seen) if seen else None)

    async def online(self) -> list[Registration]:
        """All clients held by live nodes with their profiles, sorted by id."""
        found: dict[str, Registration] = {}
        for node_id in await self._nodes.live():
            seen = list((await self.on_node(node_id)).items())
            for start in range(0, len(seen), CHUNK):
                part = seen[start : start + CHUNK]
                pending = [
                    self._redis.command("HMGET", self._keys.registration(c), *_FIELDS, "profile") for c, _ in part
                ]
                for (client_id, last_seen_ms), reply in zip(part, pending, strict=True):
                    values = await reply
                    if values[0] and values[0].decode() == node_id:
                        found[client_id] = _parse(client_id, values, last_seen_ms)
        return [found[c] for c in sorted(found)]


def _parse(client_id: str, values: list[bytes | None], last_seen_ms: int | None = None) -> Registration:
    text = [(v or b"").decode() for v in values[: len(_FIELDS)]]
    profile = values[len(_FIELDS)] if len(values) > len(_FIELDS) else None
    return Registration(
        client_id=client_id,
        node_id=text[0],
        connection_id=text[1],
        client_type=text[2],
        platform=text[3],
        target_id=text[4],
        features=frozenset(text[5].split(",")) if text[5] else frozenset(),
        since_ms=int(text[6] or 0),
        last_seen_ms=last_seen_ms,
        profile=orjson.loads(profile) if profile else None,
    )
