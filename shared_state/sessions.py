"""Sessions: one task on one device, from dispatch to its end, and what came out of it.

    created → dispatched → running → completed | failed | cancelled | timed_out

The first terminal state wins, decided inside Redis; a later one is refused and changes nothing. Every session has a
deadline, and a time to live that begins as deadline plus retention and becomes the retention once it has ended. A
session whose node died before noting its end is ended by whoever reads it after its deadline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from shared_state.connection import Connection
from shared_state.errors import SessionExists, SessionNotFound, TaskNameTaken
from shared_state.keys import Keys
from shared_state.voice import Voice

__all__ = ["TERMINAL", "Ended", "Event", "Session", "SessionState", "Sessions"]

EVENTS_BOUND = 1_000
# An event is a note, not a store: what is larger is noted by its size.
EVENT_BYTES = 65_536
INDEX_BOUND = 100_000
# A name is claimed a moment before its session is stored; a claim without a session is dead after this.
UNSTORED_CLAIM_MS = 10_000


class SessionState(StrEnum):
    """Where a session stands."""

    CREATED = "created"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


TERMINAL = frozenset({SessionState.COMPLETED, SessionState.FAILED, SessionState.CANCELLED, SessionState.TIMED_OUT})


@dataclass(frozen=True, slots=True)
class Session:
    """A session as stored. Times are ms since the epoch; `owner` is the client that asked, '' for REST."""

    session_id: str
    client_id: str
    task_name: str
    request: str
    planner: str
    owner: str = ""
    state: SessionState = SessionState.CREATED
    created_ms: int = 0
    deadline_ms: int = 0
    timeout_s: float = 0.0
    dispatched_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    node_id: str = ""
    result: Any = None
    error: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a session. `event_id` is its place in the stream, and tells the time."""

    event_id: str
    facts: dict[str, Any]

    @property
    def at_ms(self) -> int:
        """When, in ms since the epoch."""
        return int(self.event_id.partition("-")[0])


@dataclass(frozen=True, slots=True)
class Ended:
    """A session that this call ended: who is to be told."""

    session_id: str
    owner: str
    client_id: str
    task_name: str


class Sessions:
    """The sessions of the cluster."""

    def __init__(self, connection: Connection, keys: Keys, *, result_ttl_s: int) -> None:
        self._redis = connection
        self._voice = Voice(connection, keys)
        self._keys = keys
        self._result_ttl_s = result_ttl_s

    # -- task names --------------------------------------------------------------------------------------------
    async def claim_task(self, task_name: str, session_id: str, *, token: str, timeout_s: float) -> str:
        """Make `task_name` mean `session_id`. Returns the (ended) session id that had the name, '' if none.

        `token` names this claim: the same may be repeated, while another claim for the same session id is another
        claim. Raises TaskNameTaken while the session that has the name is under way.
        """
        replace = replaced = ""
        while True:
            reply = await self._redis.script(
                "task_claim", [self._keys.task(task_name)], [session_id, replace, self._life_ms(timeout_s), token]
            )
            holder = reply[0].decode()
            if not holder:
                return replaced
            if not await self._is_over(holder, claimed_ms_ago=int(reply[1])):
                raise TaskNameTaken(task_name, holder)
            # By its token: the name may be claimed anew for the same session id meanwhile.
            replace, replaced = reply[2].decode(), holder

    async def release_task(self, task_name: str, token: str, *, restore: str = "") -> None:
        """Undo the claim `token` for a session that never started. Safe to repeat."""
        await self._redis.script("task_release", [self._keys.task(task_name)], [token, restore])

    async def _is_over(self, session_id: str, *, claimed_ms_ago: int) -> bool:
        session = await self.find(session_id)
        if session is None:
            # Claimed, and its session not stored yet; or, after a while, never, or not any more.
            return claimed_ms_ago > UNSTORED_CLAIM_MS
        return session.state in TERMINAL

    # -- the life of a session ---------------------------------------------------------------------------------
    async def create(self, session: Session, *, durable: bool = False) -> None:
        """Store a new session as `created`. `durable`: as for `Connection.command`.

        Raises SessionExists if the id is in use: an ended session's id may be used again by its owner only.
        """
        fields: list[str | bytes | int | float] = [
            *("client_id", session.client_id, "task_name", session.task_name, "request", session.request),
            *(
                "created_ms",
                session.created_ms,
                "planner",
                session.planner,
                "deadline_ms",
                session.deadline_ms,
                "timeout_s",
                session.timeout_s,
            ),
        ]
        if session.metadata:
            fields += ["metadata", orjson.dumps(session.metadata)]
        k = self._keys
        event = orjson.dumps({"event": "created", "client_id": session.client_id, "task_name": session.task_name})
        index = self._redis.script(
            "index_add",
            [k.sessions()],
            [
                _place(session),
                INDEX_BOUND,
                self._life_ms(session.timeout_s),
            ],
        )
        reply = await self._redis.script(
            "session_create",
            [k.session(session.session_id), k.session_events(session.session_id)],
            [session.owner, self._life_ms(session.timeout_s), event, session.created_ms, *fields],
            durable=durable,
        )
        await index
        if reply[0] != 1:
            raise SessionExists(f"Session '{session.session_id}' is in use")

    async def discard(self, session: Session) -> None:
        """Remove a session that was created and could not be dispatched. Safe to repeat."""
        k = self._keys
        removed = self._redis.command("ZREM", k.sessions(), _place(session))
        await self._redis.command("DEL", k.session(session.session_id), k.session_events(session.session_id))
        await removed

    async def advance(
        self,
        session_id: str,
        state: SessionState | None,
        *,
        event: Mapping[str, Any] | None = None,
        **fields: str,
    ) -> SessionState:
        """Move a session to `dispatched` or `running` (None: leave its state), append `event`, set `fields`.

        Returns the state it is in now: a terminal one if it had ended, and then nothing was changed.
        Raises SessionNotFound.
        """
        noted = orjson.dumps(event) if event else b""
        if event and len(noted) > EVENT_BYTES:
            noted = orjson.dumps({"event": event.get("event"), "shortened_from": len(noted)})
        stamp = {SessionState.DISPATCHED: "dispatched_ms", SessionState.RUNNING: "started_ms"}.get(
            state or SessionState.CREATED, ""
        )
        k = self._keys
        reply = await self._redis.script(
            "session_advance",
            [k.session(session_id), k.session_events(session_id)],
            [
                *(state or "", stamp, noted, EVENTS_BOUND),
                *(self._voice.script_prefix, session_id),
                *(x for pair in fields.items() for x in pair),
            ],
        )
        if reply[0] == -1:
            raise SessionNotFound(f"No session '{session_id}'")
        if reply[0] == 1 and noted:
            await self._tell(reply[2], "event", session_id)
        return SessionState(reply[1].decode())

    async def end(
        self,
        session_id: str,
        state: SessionState,
        *,
        result: Any = None,
        error: str | None = None,
        if_overdue: bool = False,
        end_id: str,
    ) -> Ended | SessionState:
        """End a session. Returns `Ended` if this end did it, else the state that stands.

        Raises SessionNotFound. Safe to repeat: with the same `end_id` it returns the same, whatever got lost.
        """
        k = self._keys
        event = orjson.dumps({"event": "ended", "state": state, **({"error": error} if error else {})})
        reply = await self._redis.script(
            "session_end",
            [k.session(session_id), k.session_events(session_id)],
            [
                *(
                    state,
                    orjson.dumps(result) if result is not None else "",
                    error or "",
                    self._result_ttl_s * 1000,
                ),
                *(event, self._voice.script_prefix, session_id, "1" if if_overdue else "", end_id),
            ],
        )
        if reply[0] == -1:
            raise SessionNotFound(f"No session '{session_id}'")
        if reply[0] == 0:
            return SessionState(reply[1].decode())
        await self._tell(reply[4], "ended", session_id)
        await self._tell(reply[5], "event", session_id)
        return Ended(session_id, reply[1].decode(), reply[2].decode(), reply[3].decode())

    async def watch(self, session_id: str, node_id: str, *, events: bool = False) -> SessionState:
        """Have `node_id` told over the bus when the session ends, or, with `events`, of every event of it.

        Returns its state now. Raises SessionNotFound.
        """
        field_name = "followers" if events else "watchers"
        reply = await self._redis.script("session_watch", [self._keys.session(session_id)], [node_id, field_name])
        if not reply:
            raise SessionNotFound(f"No session '{session_id}'")
        return SessionState(reply.decode())

    # -- reading -----------------------------------------------------------------------------------------------
    async def find(self, session_id: str) -> Session | None:
        """The session, or None if there is none (any more)."""
        fields = await self._redis.command("HGETALL", self._keys.session(session_id))
        return _parse(session_id, fields) if fields else None

    async def find_by_task(self, task_name: str) -> Session | None:
        """The newest session with this task name."""
        session_id = await self._redis.command("HGET", self._keys.task(task_name), "session_id")
        return await self.find(session_id.decode()) if session_id else None

    async def events(self, session_id: str, *, after: str = "") -> list[Event]:
        """What happened in the session, in order; with `after`, what came behind that event."""
        start = f"({after}" if after else "-"
        reply = await self._redis.command("XRANGE", self._keys.session_events(session_id), start, "+")
        return [Event(entry_id.decode(), orjson.loads(fields[b"e"])) for entry_id, fields in reply]

    async def states(self, session_ids: Sequence[str]) -> dict[str, tuple[SessionState, str | None]]:
        """State and error of many sessions; those that are not stored are left out."""
        pending = [self._redis.command("HMGET", self._keys.session(s), "state", "error") for s in session_ids]
        found = {}
        for session_id, reply in zip(session_ids, pending, strict=True):
            state, error = await reply
            if state:
                found[session_id] = (SessionState(state.decode()), error.decode() if error else None)
        return found

    async def page(self, *, client_id: str | None, limit: int, before: str = "") -> list[tuple[str, Session | None]]:
        """Up to `limit` newest sessions (of one client), each with its place in the index for `before`.

        A place whose session has lived out its time comes with None.
        """
        key = self._keys.client_sessions(client_id) if client_id else self._keys.sessions()
        top = f"({before}" if before else "+"
        members = await self._redis.command("ZREVRANGEBYLEX", key, top, "-", "LIMIT", 0, limit)
        places = [m.decode() for m in members]
        ids = [place.partition(":")[2] for place in places]
        pending = [self._redis.command("HGETALL", self._keys.session(s)) for s in ids]
        found = [(await reply) for reply in pending]
        sessions = [_parse(s, f) if f else None for s, f in zip(ids, found, strict=True)]
        # An id that was used again, or was refused because it is in use, has places that are not its session's.
        return [
            (place, session if session and place == _place(session) else None)
            for place, session in zip(places, sessions, strict=True)
        ]

    async def _tell(self, node_ids: bytes, kind: str, session_id: str) -> None:
        """Wake the nodes that a script named because it could not wake them itself."""
        if not self._voice.script_prefix:
            await self._voice.tell_all(node_ids.decode().split(), kind, session_id)

    def _life_ms(self, timeout_s: float) -> int:
        return int((timeout_s + self._result_ttl_s) * 1000)


def _place(session: Session) -> str:
    """Where a session stands in an index in order of time."""
    return f"{session.created_ms:015d}:{session.session_id}"


def _parse(session_id: str, fields: dict[bytes, bytes]) -> Session:
    def text(name: bytes) -> str:
        return fields.get(name, b"").decode()

    def ms(name: bytes) -> int | None:
        return int(fields[name]) if name in fields else None

    return Session(
        session_id=session_id,
        client_id=text(b"client_id"),
        task_name=text(b"task_name"),
        request=text(b"request"),
        planner=text(b"planner"),
        owner=text(b"owner"),
        state=SessionState(text(b"state")),
        created_ms=ms(b"created_ms") or 0,
        deadline_ms=ms(b"deadline_ms") or 0,
        timeout_s=float(text(b"timeout_s") or 0),
        dispatched_ms=ms(b"dispatched_ms"),
        started_ms=ms(b"started_ms"),
        ended_ms=ms(b"ended_ms"),
        node_id=text(b"node_id"),
        result=orjson.loads(fields[b"result"]) if b"result" in fields else None,
        error=text(b"error") or None,
        metadata=orjson.loads(fields[b"metadata"]) if b"metadata" in fields else {},
        prompt_tokens=ms(b"prompt_tokens") or 0,
        completion_tokens=ms(b"completion_tokens") or 0,
    )
