"""Which client is held by which connection of which node.

A registration is a hash that only the connection which wrote it may change (fencing): each change names its
connection id and does nothing if another holds the client by then, so the late clean-up of an old socket never touches
a newer one. Each registration has a generation, greater than every one before it by the clock of Redis: the steps of a
session carry it, and those of an older one are refused.

A client whose socket broke is *away* for a while: its registration stays, held by nobody, and its inbox goes on taking
messages. A registration whose node has no lease is void: listings leave it out, and newcomers replace it.

Each node lists its clients in a hash of its own, so that a listing reads as many keys as there are nodes, and a dead
node's clients can be found. That hash is written before the registration and removed after it.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from aip_cluster.protocol import new_id
from shared_state.chunks import merged, slices
from shared_state.errors import AlreadyRegistered
from shared_state.keys import Keys
from shared_state.nodes import Nodes
from shared_state.redis.connection import Connection

__all__ = ["NO_PROOF", "Absence", "Admitted", "Clients", "Left", "Proof", "Registration"]

REGISTRATION_LIFE_S = 900
NODE_CLIENTS_LIFE_S = 86_400
# Kept a little longer than its absence may last: whoever ends it may be late.
AWAY_SLACK_S = 300
CHUNK = 500
# Registrations that are read together: each has a profile to be parsed.
DETAILS_CHUNK = 50
# So many are noted by one script, which keeps Redis for 0.6 ms.
SEEN_CHUNK = 1_000

_FIELDS = (
    "node_id",
    "connection_id",
    "client_type",
    "platform",
    "target_id",
    "features",
    "since_ms",
    "away_until_ms",
    "generation",
    "held",
)


@dataclass(frozen=True, slots=True)
class Registration:
    """A registered client; `away_until_ms` is set, and node and connection are '', while its socket is broken.

    `profile` is filled only where it was asked for; `last_seen_ms` likewise.
    """

    client_id: str
    node_id: str
    connection_id: str
    client_type: str
    platform: str = ""
    target_id: str = ""
    features: frozenset[str] = frozenset()
    since_ms: int = 0
    away_until_ms: int | None = None
    last_seen_ms: int | None = None
    profile: dict[str, Any] | None = None
    # Set by the registry.
    generation: int = field(default=0, compare=False)
    # Changes with whatever a start of a session goes by: who holds it, and what it can do; '' while nobody holds it.
    held: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Proof:
    """What a newcomer has to show: hashes of the resume token it was given and of the one it gets, its credential."""

    shown_token_hash: str = ""
    new_token_hash: str = ""
    credential: str = ""


NO_PROOF = Proof()


@dataclass(frozen=True, slots=True)
class Admitted:
    """A registration that stands. `proven`: the client showed the resume token of the registration before.

    `replaced_node` and `replaced_connection` held the client until now ('' if nobody did); `sessions` are under way on
    it.
    """

    generation: int
    proven: bool
    replaced_node: str
    replaced_connection: str
    sessions: list[str]


@dataclass(frozen=True, slots=True)
class Left:
    """A registration that ended: `held` is False if another connection holds the client by now."""

    held: bool
    generation: int
    sessions: list[str]


@dataclass(frozen=True, slots=True)
class Absence:
    """What became of a client that was away: it is `over`, or it `may_return` still, or (neither) somebody holds it.

    `ended_now`: by this very look. `sessions` are under way on a client that nobody holds any more.
    """

    over: bool
    ended_now: bool
    may_return: bool
    sessions: list[str]


class Clients:
    """Registrations, with fencing by connection id."""

    def __init__(self, connection: Connection, keys: Keys, nodes: Nodes) -> None:
        self._redis = connection
        self._keys = keys
        self._nodes = nodes

    # -- writing, in the order a registration lives ------------------------------------------------------------
    async def register(
        self,
        registration: Registration,
        *,
        proof: Proof = NO_PROOF,
        replace: str = "",
        generation: int | None = None,
    ) -> Admitted:
        """Store `registration` (its `profile` too), safe to repeat by the same connection.

        A holder gives way to a client that shows its resume token, to one that names its connection id in `replace`
        (because it was found to be gone), and where its node is dead. A connection that
        was registered before, in `generation`, replaces nothing that is newer, and anything that is older: a failover
        may bring the past back. Raises AlreadyRegistered otherwise.
        """
        while True:
            reply = await self._write(registration, proof, replace, generation)
            if reply[0] == 1:
                return Admitted(
                    generation=int(reply[1]),
                    proven=reply[2] == 1,
                    replaced_node=reply[3].decode(),
                    replaced_connection=reply[4].decode(),
                    sessions=[s.decode() for s in reply[5:]],
                )
            node_id, connection_id = reply[1].decode(), reply[2].decode()
            # Twice the same answer: what was to be replaced is held anew, under an id that is never used twice.
            ours = node_id == registration.node_id
            if not connection_id or ours or replace == connection_id or node_id in await self._nodes.live():
                if not ours:
                    await self.unlist_on_node(registration.node_id, registration.client_id)
                raise AlreadyRegistered(registration.client_id, node_id, connection_id)
            replace = connection_id

    async def _write(self, r: Registration, proof: Proof, replace: str, generation: int | None) -> list[Any]:
        fields: list[str | bytes | int] = [
            *("node_id", r.node_id, "features", _written(r.features)),
            *(
                "platform",
                r.platform,
                "target_id",
                r.target_id,
                "since_ms",
                r.since_ms,
                "token_hash",
                proof.new_token_hash,
            ),
        ]
        if r.profile is not None:
            fields += ["profile", orjson.dumps(r.profile)]
        # Before the registration, in the same pipeline: whatever is registered can be found by the node's reaper.
        listed = self._redis.script(
            "node_lists",
            [self._keys.node_clients(r.node_id)],
            [r.client_id, r.since_ms, NODE_CLIENTS_LIFE_S * 1000],
        )
        reply: list[Any] = await self._redis.script(
            "client_register",
            [self._keys.registration(r.client_id), self._keys.active(r.client_id)],
            [
                *(r.connection_id, replace, REGISTRATION_LIFE_S * 1000, r.client_type),
                *(proof.shown_token_hash, proof.credential),
                *("" if generation is None else generation, *fields),
            ],
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
        changed = ("", "") if features is None else (_written(features), new_id())
        held = await self._redis.script(
            "client_touch",
            [self._keys.registration(client_id)],
            [connection_id, REGISTRATION_LIFE_S * 1000, *changed, *fields],
        )
        return bool(held)

    async def leave(self, client_id: str, connection_id: str, *, away_s: float = 0.0) -> Left:
        """End the registration if this connection holds it: for good, or as away for `away_s`. Safe to repeat."""
        return await self._leave(client_id, "connection_id", connection_id, away_s)

    async def reap(self, client_id: str, node_id: str, *, away_s: float = 0.0) -> Left:
        """As `leave`, if the registration is still held by `node_id`, which is dead."""
        return await self._leave(client_id, "node_id", node_id, away_s)

    async def _leave(self, client_id: str, field: str, value: str, away_s: float) -> Left:
        reply = await self._redis.script(
            "client_leave",
            [self._keys.registration(client_id), self._keys.active(client_id)],
            [field, value, int(away_s * 1000), AWAY_SLACK_S * 1000],
        )
        return Left(reply[0] == 1, int(reply[1]), [s.decode() for s in reply[2:]])

    async def expire(self, client_id: str) -> Absence:
        """End a registration whose client has been away for longer than it may. Safe to repeat."""
        reply = await self._redis.script(
            "client_expire", [self._keys.registration(client_id), self._keys.active(client_id)]
        )
        over = reply[0] in {1, 3}
        sessions = [s.decode() for s in reply[1:]] if over else []
        return Absence(over=over, ended_now=reply[0] == 1, may_return=reply[0] == 2, sessions=sessions)

    async def holders(self, client_ids: list[str]) -> dict[str, str]:
        """The connection id that holds each of `client_ids` now, '' where none does."""
        pending = [self._redis.command("HGET", self._keys.registration(c), "connection_id") for c in client_ids]
        return {c: (await reply or b"").decode() for c, reply in zip(client_ids, pending, strict=True)}

    # -- the list of a node --------------------------------------------------------------------------------------
    async def note_seen(self, node_id: str, last_seen_ms: dict[str, int]) -> None:
        """Note when clients of `node_id` were last heard, and keep its list for another day.

        Those who left meanwhile are not listed again. Raises StateUnavailable; safe to repeat.
        """
        key = self._keys.node_clients(node_id)
        heard = [x for pair in last_seen_ms.items() for x in pair]
        for start in range(0, len(heard), 2 * SEEN_CHUNK):
            await self._redis.script("node_seen", [key], heard[start : start + 2 * SEEN_CHUNK])
        await self._redis.command("EXPIRE", key, NODE_CLIENTS_LIFE_S)

    async def unlist_on_node(self, node_id: str, client_id: str) -> None:
        """Take a client off the node's list. Safe to repeat."""
        await self._redis.command("HDEL", self._keys.node_clients(node_id), client_id)

    async def drop_node_list(self, node_id: str) -> None:
        """Remove the whole list of a node that is gone. Safe to repeat."""
        await self._redis.command("DEL", self._keys.node_clients(node_id))

    async def on_node(self, node_id: str) -> dict[str, int]:
        """Clients of `node_id`, each with the time of its last sign of life in ms: all of them, as of one moment.

        Nobody may be missed here: whoever settles a dead node drops its list afterwards.
        """
        reply = await self._redis.command("HGETALL", self._keys.node_clients(node_id))
        return {k.decode(): int(v) for k, v in reply.items()}

    async def _listed(self, node_id: str) -> AsyncIterator[dict[str, int]]:
        """The same in parts, for listings: neither Redis nor this node is busy with it for long.

        Who comes or goes meanwhile may be there or not, and if another server takes over meanwhile, some are left out:
        a place in the list means something to the server that gave it only.
        """
        cursor = 0
        while True:
            key = self._keys.node_clients(node_id)
            cursor, part = await self._redis.command("HSCAN", key, cursor, "COUNT", CHUNK)
            yield {client_id.decode(): int(seen_ms) for client_id, seen_ms in part.items()}
            if cursor == 0:
                return

    # -- reading -------------------------------------------------------------------------------------------------
    async def online_ids(self) -> list[str]:
        """Ids of all clients held by live nodes, sorted."""
        known: set[str] = set()
        runs: list[list[str]] = []
        for node_id in await self._nodes.live():
            async for part in self._listed(node_id):
                runs.append(sorted(part.keys() - known))
                known |= part.keys()
        return await merged(runs)

    async def find(self, client_id: str) -> Registration | None:
        """The registration without its profile, as stored: held, away, or of a node that died a moment ago.

        This is the look-up of every dispatch; whoever is gone for good is removed within the lease and the grace.
        """
        values = await self._redis.command("HMGET", self._keys.registration(client_id), *_FIELDS)
        return _parse(client_id, values) if values[2] else None

    async def get(self, client_id: str) -> Registration | None:
        """The registration with profile and last sign of life; None if the client is neither held nor away."""
        values = await self._redis.command("HMGET", self._keys.registration(client_id), *_FIELDS, "profile")
        if not values[2]:
            return None
        if not values[0]:
            return _parse(client_id, values)
        if values[0].decode() not in await self._nodes.live():
            return None
        seen = await self._redis.command("HGET", self._keys.node_clients(values[0].decode()), client_id)
        return _parse(client_id, values, int(seen) if seen else None)

    async def online(self) -> list[Registration]:
        """All clients held by live nodes with their profiles, sorted by id."""
        return [r async for part in self.online_parts() for r in part]

    async def online_parts(self) -> AsyncIterator[list[Registration]]:
        """The same in parts of a few dozen, so that nobody has to have all profiles at once."""
        seen: dict[str, dict[str, int]] = {}
        for node_id in await self._nodes.live():
            seen[node_id] = {c: ms async for listed in self._listed(node_id) for c, ms in listed.items()}
        runs: list[list[str]] = []
        for clients in seen.values():
            async for ids in slices(list(clients), CHUNK):
                runs.append(sorted(ids))
        last = ""
        async for part in slices(await merged(runs), DETAILS_CHUNK):
            # A client that moved a moment ago may be on two lists: its registration says which is right.
            once = [c for c, before in zip(part, [last, *part], strict=False) if c != before]
            last = part[-1]
            pending = [self._redis.command("HMGET", self._keys.registration(c), *_FIELDS, "profile") for c in once]
            found: list[Registration] = []
            for client_id, reply in zip(once, pending, strict=True):
                values = await reply
                last_seen_ms = seen.get((values[0] or b"").decode(), {}).get(client_id)
                if last_seen_ms is not None:
                    found.append(_parse(client_id, values, last_seen_ms))
            yield found


def _written(features: frozenset[str]) -> str:
    return ",".join(sorted(features))


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
        away_until_ms=int(text[7]) if text[7] else None,
        last_seen_ms=last_seen_ms,
        profile=orjson.loads(profile) if profile else None,
        generation=int(text[8] or 0),
        held=text[9],
    )
