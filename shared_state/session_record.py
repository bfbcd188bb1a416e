"""What is stored of a session, and what happens in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Any, NamedTuple

import orjson

from aip_cluster.protocol import new_id
from aip_cluster.protocol.ids import made_ms
from aip_cluster.protocol.session_states import TERMINAL, SessionState
from shared_state.keys import NEVER_MS
from shared_state.task_record import StoredTask, stored_task_of, task_json

__all__ = [
    "TERMINAL",
    "WORTH_CUTTING",
    "Behind",
    "EndIf",
    "Ended",
    "Ending",
    "Event",
    "NameClaim",
    "Session",
    "SessionState",
    "created_event",
    "end_json",
    "event_json",
    "listed",
    "listed_place",
    "order_json",
    "parse",
    "parse_end",
    "place",
    "stored_fields",
]

# An event is a note, not a store: what is larger is noted by its size.
EVENT_BYTES = 65_536
# The life of a session that ends is cut to the retention only if that takes more than this part of it.
WORTH_CUTTING = 100
# Of the time, in a place.
PLACE_DIGITS = 15


class EndIf(StrEnum):
    """When an end may take place, judged by Redis in the moment of the end."""

    ANYWAY = ""
    OVERDUE = "overdue"
    # Its device is gone: unless it waits for the device to come.
    GONE = "gone"
    # It waited for its device as long as it may.
    UNTAKEN = "untaken"


# Ends are told apart by them: random digits of this process, and a number.
_PROCESS = new_id().rpartition("-")[2]
_numbers = count(1)
_ENDED = {state: orjson.dumps({"event": "ended", "state": state}) for state in TERMINAL}


@dataclass(slots=True, kw_only=True)
class Session(StoredTask):
    """A session as stored; not to be changed. Times are ms since the epoch.

    `commands` (as JSON) is forgotten with the end. A task that may wait for its device does so until `queue_until_ms`;
    it is handed over `max_attempts` times at most, as long as the device does not take it.
    """

    # The client's own id of the request: a task that arrives twice is known by it, also after its end.
    request_id: str = ""
    # What was asked for, as a hash, where a client chose the id: another request under the same id is known by it.
    fingerprint: str = ""
    state: SessionState = SessionState.CREATED
    dispatched_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    node_id: str = ""
    result: Any = None
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    commands: bytes = b""
    end_id: str = ""
    queue_until_ms: int | None = None
    attempts: int = 1
    max_attempts: int = 1

    @property
    def span_s(self) -> float:
        """From its creation to its deadline: the time it may wait for its device, and then run."""
        return (self.deadline_ms - self.created_ms) / 1000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a session. `event_id` is `<ms>-<number>`: the time, and its place among the others."""

    event_id: str
    facts: dict[str, Any]

    @property
    def at_ms(self) -> int:
        """When, in ms since the epoch."""
        return int(self.event_id.partition("-")[0])

    @property
    def number(self) -> int:
        """Its place; the creation is 0."""
        return int(self.event_id.partition("-")[2])


@dataclass(slots=True)
class Behind:
    """What happened in a session on a node and is not stored yet: it travels with the next step, or with the end.

    `stamps` are fields that take a time, `events` have theirs; ms since the epoch by the node's clock.
    """

    stamps: dict[str, int] = field(default_factory=dict)
    events: list[tuple[int, bytes]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.stamps or self.events)


@dataclass(slots=True)
class Ending:
    """The end that a session is to have.

    It takes place `end_if`, and not if a connection newer than `generation` drives the session. Whoever knows the
    session's device says so with `client_id`; and with `created_ms` when it was made, where its id may be used again.
    `behind` is what happened before and is not stored yet. Under the same `end_id` it may be repeated: it is one end.
    """

    session_id: str
    state: SessionState
    result: Any = None
    error: str | None = None
    end_if: EndIf = EndIf.ANYWAY
    generation: int | None = None
    client_id: str = ""
    created_ms: int | None = None
    behind: Behind | None = None
    end_id: str = field(default_factory=lambda: f"{_PROCESS}.{next(_numbers)}")


class Ended(NamedTuple):
    """A session that this call ended: who is to be told. `settled`: it counts as active on its device no more.

    Where nobody but REST asked for it, and the caller knew its device: `owner` and `task_name` are '', `created_ms` 0.
    """

    session_id: str
    owner: str
    client_id: str
    task_name: str
    settled: bool = False
    created_ms: int = 0


class NameClaim(NamedTuple):
    """Who has a task's name: the claim's token, how long it was made for, and the session that the name means.

    A session that got its name with its start is its own token, and was there from the beginning: its id is all that
    is stored.
    """

    token: str
    life_ms: int
    session_id: str

    def written(self) -> bytes:
        """As it is stored."""
        return f"{self.token} {self.life_ms} {self.session_id}".encode()

    @classmethod
    def read(cls, written: bytes) -> "NameClaim":
        """What is stored."""
        token, _, rest = written.decode().partition(" ")
        if not rest:
            return cls(token, NEVER_MS, token)
        life_ms, _, session_id = rest.partition(" ")
        return cls(token, int(life_ms), session_id)


def place(session: Session) -> str:
    """Where a session stands in an index in order of time."""
    return f"{session.created_ms:015d}:{session.session_id}"


def listed_place(entry: bytes) -> str:
    """Where a session stands that is listed among its client's newest: by its place, or by an id of the cluster's
    making, which says when it was created."""
    text = entry.decode()
    return text if text[PLACE_DIGITS : PLACE_DIGITS + 1] == ":" else f"{made_ms(text):015d}:{text}"


def event_json(facts: Mapping[str, Any]) -> bytes:
    """An event as it is stored."""
    noted = orjson.dumps(facts)
    if len(noted) > EVENT_BYTES:
        return orjson.dumps({"event": facts.get("event"), "shortened_from": len(noted)})
    return noted


def listed(entry: bytes) -> Event:
    """The event of an entry `<number> <ms> <JSON>`."""
    number, at_ms, facts = entry.split(b" ", 2)
    return Event(f"{at_ms.decode()}-{number.decode()}", orjson.loads(facts))


def order_json(session: Session, *, commands: bool = True) -> bytes:
    """What was asked for, which never changes: as it is stored (without its `commands`), and as it travels (with)."""
    return task_json(session, session.commands if commands else b"")


def end_json(ending: Ending, *, now_ms: int, ahead_ms: int) -> bytes:
    """What comes with the end of a session, as it is stored: what came out, what was behind, and the last events.

    `now_ms` is the cluster's time; that of what is behind is the node's, which is `ahead_ms` less.
    """
    state, error, behind = ending.state, ending.error, ending.behind
    last = orjson.dumps({"event": "ended", "state": state, "error": error}) if error else _ENDED[state]
    events = [] if behind is None else [[ms + ahead_ms, orjson.Fragment(noted)] for ms, noted in behind.events]
    events.append([now_ms, orjson.Fragment(last)])
    end: dict[str, Any] = {"ended_ms": now_ms, "events": events}
    if behind is not None:
        for name, at_ms in behind.stamps.items():
            end[name] = at_ms + ahead_ms
    if ending.result is not None:
        end["result"] = ending.result
    if error is not None:
        end["error"] = error
    return orjson.dumps(end)


def created_event(order: Mapping[str, Any]) -> Event:
    """The first event of every session, told from its order."""
    facts = {"event": "created", "client_id": order["client_id"], "task_name": order["task_name"]}
    return Event(f"{order['created_ms']}-0", facts)


def stored_fields(session: Session) -> list[str | bytes | int | float]:
    """What is stored of a new session beside its order and its deadline: what scripts look at. Field, value, ..."""
    fields: list[str | bytes | int | float] = []
    if session.owner:
        fields += ["owner", session.owner]
    if session.request_id:
        fields += ["request_id", session.request_id]
    if session.fingerprint:
        fields += ["fingerprint", session.fingerprint]
    if session.commands:
        fields += ["commands", session.commands]
    if session.queue_until_ms is not None:
        fields += ["queue_until_ms", session.queue_until_ms]
    if session.max_attempts > 1:
        fields += ["max_attempts", session.max_attempts]
    return ["more", "1", *fields] if fields else fields


def parse_end(stored: bytes | None) -> tuple[str, dict[str, Any]]:
    """The id of a session's end and what came with it, from its field `end`; both empty if it has not ended."""
    end_id, _, end = (stored or b"\n{}").partition(b"\n")
    return end_id.decode(), orjson.loads(end)


def parse(fields: dict[bytes, bytes]) -> Session:
    """The session from its hash."""
    order = orjson.loads(fields[b"order"])
    end_id, end = parse_end(fields.get(b"end"))

    def text(name: str) -> str:
        # What came with the end is newer, but a stamp is the first.
        return str(end[name]) if name in end else fields.get(name.encode(), b"").decode()

    def number(name: str) -> int | None:
        return int(text(name) or 0) or None

    def stamp(name: str) -> int | None:
        return int(fields[name.encode()]) if name.encode() in fields else end.get(name)

    return Session(
        **stored_task_of(order),
        request_id=text("request_id"),
        fingerprint=text("fingerprint"),
        state=SessionState(text("state") or SessionState.CREATED),
        dispatched_ms=stamp("dispatched_ms"),
        started_ms=stamp("started_ms"),
        ended_ms=end.get("ended_ms"),
        node_id=text("node_id") or _noted_node(end),
        result=end.get("result"),
        error=end.get("error") or None,
        prompt_tokens=number("prompt_tokens") or 0,
        completion_tokens=number("completion_tokens") or 0,
        commands=fields.get(b"commands", b""),
        end_id=end_id,
        queue_until_ms=number("queue_until_ms"),
        attempts=number("attempts") or 1,
        max_attempts=number("max_attempts") or 1,
    )


def _noted_node(end: dict[str, Any]) -> str:
    """Who ran a session that was over before anything else of it was stored: what was behind says so."""
    return next((facts["node_id"] for _, facts in reversed(end.get("events", ())) if "node_id" in facts), "")
