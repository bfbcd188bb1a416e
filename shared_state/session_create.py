"""Create a session: one script stores it, makes it active on its device and wakes the device's node, or does nothing.

The wake-up carries the order, so that the node needs no read; in a Redis Cluster it only says that there is something
to read. If the wake-up is lost, the session stays active in state `created`. The node that next holds the device's
socket finds it there and starts it (see `waiting`). There is no separate queue.

This works for session ids that the cluster made (`new_session_id`): they live in the slot of their device. A session
whose id an orchestrator chose lives in another slot: `Sessions.create` stores it, then the inbox gets its task.
"""

import time
from collections.abc import Container
from functools import lru_cache
from typing import NamedTuple

import orjson

from shared_state.errors import NameHeld
from shared_state.inbox import check_posted
from shared_state.keys import NEVER_MS, Keys, live_together
from shared_state.publisher import Publisher
from shared_state.redis.connection import Connection
from shared_state.session_index import SessionIndex
from shared_state.session_record import Session, order_json, place, stored_fields

__all__ = ["ANYONE", "KNOWN_CLIENTS", "ExpectedVersion", "SessionCreator"]


class ExpectedVersion(NamedTuple):
    """The registration that the caller has cached: its holder (`Registration.held`) and its node."""

    held: str
    node_id: str


ANYONE = ExpectedVersion("", "")


# How often each node renews the time to live of a client's inbox and lists, which is twice that (_bounds.lua).
RENEW_EVERY_S = 600.0
# Bound of the per-client caches: as many clients as a node may have sockets.
KNOWN_CLIENTS = 20_000


class _Renewals:
    """For which clients this node renewed the time to live of inbox and lists lately, and for sessions of what life."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._lives: dict[str, int] = {}

    def due(self, client_id: str, life_ms: int) -> bool:
        """Whether a session of this life must renew them."""
        now = time.monotonic()
        if now - self._since > RENEW_EVERY_S or len(self._lives) > KNOWN_CLIENTS:
            self._since = now
            self._lives.clear()
        return self._lives.get(client_id, 0) < life_ms

    def done(self, client_id: str, life_ms: int) -> None:
        """Note that they were renewed."""
        self._lives[client_id] = max(life_ms, self._lives.get(client_id, 0))


class SessionCreator:
    """Begins sessions."""

    def __init__(
        self, connection: Connection, keys: Keys, index: SessionIndex, *, result_ttl_s: int, max_sessions: int
    ) -> None:
        self._redis = connection
        self._voice = Publisher(connection, keys)
        self._keys = keys
        self._index = index
        self._result_ttl_s = result_ttl_s
        self._max_sessions = max_sessions
        self._renewals = _Renewals()
        self._keys_of_client = lru_cache(maxsize=KNOWN_CLIENTS)(self._make_keys)

    @property
    def may_claim(self) -> bool:
        """Whether `start` can claim the task's name: only on a single server."""
        return self._redis.one_server

    async def start(
        self,
        session: Session,
        *,
        believed: ExpectedVersion = ANYONE,
        wait_s: float = 0.0,
        claims: bool = False,
        durable: bool = False,
    ) -> bool:
        """Store a session as `created`. Returns False, storing nothing, if the registration is not as `believed`.

        Args: `wait_s` above 0 allows a client that is not registered; `claims` also claims the task's name (needs
        `may_claim`); `durable` as for `Connection.command`. Safe to repeat with the same session.
        Raises NameHeld, NotRegistered or TooManySessions, and stores nothing; or StateUnavailable.
        """
        k = self._keys
        client_id, session_id = session.client_id, session.session_id
        life_ms = int((session.span_s + self._result_ttl_s) * 1000)
        renews = wait_s > 0 or self._renewals.due(client_id, life_ms)
        keys = [*self._keys_of_client(client_id), k.session(session_id)]
        if claims:
            keys.append(k.task(session.task_name))
        channel = self._voice.script_prefix and self._voice.script_prefix + believed.node_id
        args: list[str | bytes | int | float] = [order_json(session, commands=False), channel]
        args += (session_id, session.deadline_ms, life_ms, self._max_sessions, believed.held)
        more = stored_fields(session)
        if more or renews:
            args.append("wait" if wait_s > 0 else "renew" if renews else "")
        if more:
            args += (order_json(session), *more)
        reply = await self._redis.script("session_start", keys, args, durable=durable)
        if isinstance(reply, bytes):
            if reply:
                # The frame only says that there is something to read, as with an inbox.
                await self._voice.tell(believed.node_id or reply.decode(), "inbox", client_id, "", "")
        elif reply >= 0:
            self._voice.note("inbox", reply)
        elif reply == -3:
            return False
        elif reply == -4:
            raise NameHeld(f"Task '{session.task_name}' has a session")
        else:
            check_posted(reply, client_id, self._max_sessions)
        if renews:
            self._renewals.done(client_id, life_ms)
        self._index.add(place(session), life_ms)
        return True

    def _make_keys(self, client_id: str) -> tuple[str, str, str]:
        k = self._keys
        return k.registration(client_id), k.active(client_id), k.client_sessions(client_id)

    async def waiting(self, client_id: str, *, but: Container[str]) -> list[bytes]:
        """The orders of the client's sessions in state `created`, oldest first, without the ids in `but`.

        Raises StateUnavailable.
        """
        key = self._keys.active(client_id)
        active = await self._redis.command("ZRANGEBYSCORE", key, "-inf", f"({NEVER_MS}")
        # Ids that the cluster made are in order of time.
        ids = sorted(i for i in map(bytes.decode, active) if i not in but and live_together(i, client_id))
        pending = [self._redis.command("HMGET", self._keys.session(i), "order", "state", "commands") for i in ids]
        waiting = []
        for reply in pending:
            order, state, commands = await reply
            if order is None or state not in {None, b"created"}:
                continue
            if commands:
                order = orjson.dumps({**orjson.loads(order), "commands": orjson.Fragment(commands)})
            waiting.append(order)
        return waiting
