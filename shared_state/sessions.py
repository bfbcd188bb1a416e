"""Sessions: one task on one device, from dispatch to its end, and what came out of it.

    created → dispatched → running → completed | failed | cancelled | timed_out
                 ↓  ↑       ↓  ↑
                  suspended          while the device is away

The first terminal state wins, decided inside Redis; a later one is refused and changes nothing. Every session has a
deadline, and a time to live that begins as deadline plus retention and becomes the retention once it has ended. A
session whose node died before noting its end is ended by whoever reads it after its deadline.

A session is driven over one connection of its device. Steps carry that connection's generation, and are refused
(`Fenced`) once a newer one has made a step. The journal holds each step in full, so that a session can be taken over.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from shared_state.clock import Clock
from shared_state.errors import Fenced, SessionEnded, SessionExists, SessionNotFound, TaskNameTaken
from shared_state.keys import Keys, keys_of_session, live_together
from shared_state.publisher import Publisher
from shared_state.redis.connection import Connection
from shared_state.session_index import SessionIndex
from shared_state.session_record import (
    TERMINAL,
    WORTH_CUTTING,
    Behind,
    Ended,
    EndIf,
    Ending,
    Event,
    NameClaim,
    Session,
    SessionState,
    created_event,
    end_json,
    event_json,
    listed,
    listed_place,
    order_json,
    parse,
    parse_end,
    place,
    stored_fields,
)

__all__ = ["TERMINAL", "Behind", "EndIf", "Ended", "Ending", "Event", "Session", "SessionState", "Sessions"]

EVENTS_BOUND = 1_000
# A name is claimed a moment before its session is stored; a claim without a session is dead after this.
UNSTORED_CLAIM_MS = 10_000


class Sessions:
    """The sessions of the cluster."""

    def __init__(
        self, connection: Connection, keys: Keys, index: SessionIndex, clock: Clock, *, result_ttl_s: int
    ) -> None:
        self._redis = connection
        self._clock = clock
        self._index = index
        self._voice = Publisher(connection, keys)
        self._keys = keys
        self._result_ttl_s = result_ttl_s

    # -- task names --------------------------------------------------------------------------------------------
    async def claim_task(self, task_name: str, session_id: str, *, token: str, span_s: float) -> str:
        """Make `task_name` mean `session_id`, which ends within `span_s`.

        Returns the (ended) session id that had the name, '' if none. `token` names this claim: the same may be
        repeated, while another claim for the same session id is another claim. Raises TaskNameTaken while the session
        that has the name is under way.
        """
        key, life_ms = self._keys.task(task_name), self._life_ms(span_s)
        claim = NameClaim(token, life_ms, session_id).written()
        set_anew = await self._redis.command("SET", key, claim, "NX", "PX", life_ms)
        held = claim if set_anew else await self._redis.command("GET", key)
        replaced = ""
        # It may have lived out its time between the two: then whatever is (not) there is replaced.
        while held != claim:
            if held is not None:
                holder = NameClaim.read(held)
                if not await self._is_over(key, holder):
                    raise TaskNameTaken(task_name, holder.session_id)
                replaced = holder.session_id
            held = await self._redis.script("task_claim", [key], [held or b"", claim, life_ms])
        return replaced

    async def release_task(self, task_name: str, token: str, *, restore: str = "") -> None:
        """Undo the claim `token` for a session that never started. Safe to repeat."""
        await self._redis.script("task_release", [self._keys.task(task_name)], [token, restore])

    async def _is_over(self, key: str, claim: "NameClaim") -> bool:
        session = await self.find(claim.session_id)
        if session is None:
            # Claimed, and its session not stored yet; or, after a while, never, or not any more.
            left_ms = await self._redis.command("PTTL", key)
            return bool(claim.life_ms - left_ms > UNSTORED_CLAIM_MS)
        return session.state in TERMINAL

    # -- the life of a session ---------------------------------------------------------------------------------
    async def create(self, session: Session, *, durable: bool = False) -> None:
        """Store a new session as `created`. `durable`: as for `Connection.command`.

        Raises SessionExists if the id is in use: an ended session's id may be used again by its owner only; and
        SessionEnded if it is the session of this very request that has ended.
        """
        k = self._keys
        life_ms = self._life_ms(session.span_s)
        self._index.add(place(session), life_ms)
        reply = await self._redis.script(
            "session_create",
            [k.session(session.session_id), k.session_events(session.session_id), k.session_files(session.session_id)],
            [
                *(session.owner, life_ms, session.created_ms, session.request_id, session.fingerprint),
                *("order", order_json(session, commands=False), "deadline_ms", session.deadline_ms),
                *stored_fields(session),
            ],
            durable=durable,
        )
        if reply[0] == 2:
            raise SessionEnded(f"Session '{session.session_id}' has ended")
        if reply[0] != 1:
            raise SessionExists(f"Session '{session.session_id}' is in use")

    async def discard(self, session: Session) -> None:
        """Remove a session that was created and could not be dispatched. Safe to repeat."""
        k = self._keys
        removed = self._index.remove(place(session))
        await self._redis.command("DEL", k.session(session.session_id), k.session_events(session.session_id))
        await removed

    async def advance(
        self,
        session_id: str,
        state: SessionState | None,
        *,
        event: Mapping[str, Any] | None = None,
        generation: int | None = None,
        created_ms: int | None = None,
        journal: Sequence[Mapping[str, Any]] = (),
        behind: Behind | None = None,
        **fields: str,
    ) -> SessionState:
        """Move a session to a state that is not terminal (None: leave it), append `event` and `journal`, set `fields`.

        What is `behind` goes before that. Returns the state it is in now: a terminal one if it had ended, and then
        nothing was changed. Raises SessionNotFound; and Fenced if a connection newer than `generation` has advanced it,
        or if the session that has the id was not created at `created_ms` (None: whichever has it).
        """
        stamp = {SessionState.DISPATCHED: "dispatched_ms", SessionState.RUNNING: "started_ms"}.get(
            state or SessionState.CREATED, ""
        )
        behind, at, now = behind or Behind(), self._clock.at, self._clock.now_ms()
        stamps = {name: at(at_ms) for name, at_ms in behind.stamps.items()}
        if stamp:
            stamps.setdefault(stamp, now)
        events = [(at(at_ms), noted) for at_ms, noted in behind.events]
        if event:
            events.append((now, event_json(event)))
        reply = await self._redis.script(
            "session_advance",
            keys_of_session(self._keys, session_id),
            [
                *(state or "", self._voice.script_prefix, session_id, "" if generation is None else generation),
                *(EVENTS_BOUND, len(stamps), len(events), len(journal), "" if created_ms is None else created_ms),
                *(x for pair in stamps.items() for x in pair),
                *(x for pair in events for x in pair),
                *(orjson.dumps(entry) for entry in journal),
                *(x for pair in fields.items() for x in pair),
            ],
        )
        if reply[0] == -1:
            raise SessionNotFound(f"No session '{session_id}'")
        if reply[0] == -2:
            raise Fenced(f"Session '{session_id}' is driven over a newer connection, or another has its id")
        if reply[0] == 1 and events:
            await self._tell(reply[2], "event", session_id)
        return SessionState(reply[1].decode())

    async def requeue(self, session_id: str, attempt: int, *, unsent: bool = False) -> int | None:
        """Let a session whose device never took it wait for the device again. Safe to repeat.

        With `unsent` only if its task was never sent. Returns the number of the attempt that begins, or None if
        `attempt` was the last, the device took it, or it waits for the device anyway.
        """
        event = orjson.dumps({"event": "requeued", "attempt": attempt + 1})
        reply = await self._redis.script(
            "session_requeue",
            [self._keys.session(session_id), self._keys.session_events(session_id)],
            [attempt, "1" if unsent else "", EVENTS_BOUND, self._clock.now_ms(), event],
        )
        return int(reply[0]) or None

    async def end(self, ending: Ending) -> Ended | SessionState:
        """End a session. Returns `Ended` if this end did it, else the state that stands.

        With its `client_id` the session is settled with its device in the same call, where the two live together.
        Raises SessionNotFound; and Fenced if a connection newer than its `generation` has advanced the session, or if
        another session has the id (`created_ms`). Safe to repeat: the same ending returns the same.
        """
        session_id, client_id, generation = ending.session_id, ending.client_id, ending.generation
        now, retention_ms = self._clock.now_ms(), self._result_ttl_s * 1000
        end = end_json(ending, now_ms=now, ahead_ms=self._clock.ahead_ms)
        keys = keys_of_session(self._keys, session_id)
        together = client_id != "" and live_together(session_id, client_id)
        if together:
            keys.append(self._keys.active(client_id))
        args: list[str | bytes | int | float] = [ending.state, ending.end_id.encode() + b"\n" + end, retention_ms]
        args += (now + retention_ms // WORTH_CUTTING, self._voice.script_prefix, session_id)
        args.append("" if generation is None else generation)
        if ending.end_if or ending.created_ms is not None:
            args.append(ending.end_if)
        if ending.created_ms is not None:
            args.append(ending.created_ms)
        reply = await self._redis.script("session_end", keys, args)
        if reply == 1:
            return Ended(session_id, "", client_id, "", settled=together)
        if reply == -1:
            raise SessionNotFound(f"No session '{session_id}'")
        if reply == -2:
            raise Fenced(f"Session '{session_id}' is driven over a newer connection, or another has its id")
        if reply[0] == 0:
            return SessionState(reply[1].decode())
        _, order_json, watchers, followers = reply
        if watchers:
            await self._tell(watchers, "ended", session_id)
        if followers:
            await self._tell(followers, "event", session_id)
        if not order_json:
            return Ended(session_id, "", client_id, "", settled=together)
        order = orjson.loads(order_json)
        owner, device, name = order["owner"], order["client_id"], order["task_name"]
        return Ended(session_id, owner, device, name, settled=together, created_ms=order["created_ms"])

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
        return parse(fields) if fields else None

    async def find_by_task(self, task_name: str) -> Session | None:
        """The newest session with this task name, which may be its own id."""
        held = await self._redis.command("GET", self._keys.task(task_name))
        session = await self.find(NameClaim.read(held).session_id if held else task_name)
        return session if held or (session is not None and session.task_name == task_name) else None

    async def events(self, session_id: str, *, after: str = "") -> list[Event]:
        """What happened in the session, in order; with `after`, what came behind that event."""
        k = self._keys
        seen = -1 if not after else int(after.partition("-")[2])
        key = k.session_events(session_id)
        # In the list, the place of an event is its number less one, unless the oldest are gone.
        oldest = self._redis.command("LINDEX", key, 0)
        kept = self._redis.command("HMGET", k.session(session_id), "order", "end", "events")
        entries = await self._redis.command("LRANGE", key, max(seen, 0), -1)
        oldest, (order, end, count) = await oldest, await kept
        gone = listed(oldest).number - 1 if oldest is not None else 0
        if gone > 0:
            entries = await self._redis.command("LRANGE", key, max(seen - gone, 0), -1)
        last = parse_end(end)[1].get("events", ())
        found = [
            *map(listed, entries),
            *(Event(f"{at_ms}-{number}", facts) for number, (at_ms, facts) in enumerate(last, int(count or 0) + 1)),
        ]
        if order is not None and gone == 0:
            found.insert(0, created_event(orjson.loads(order)))
        return [event for event in found if event.number > seen]

    async def journal(self, session_id: str) -> list[dict[str, Any]]:
        """The steps of a session that is under way, in full and in order."""
        reply = await self._redis.command("LRANGE", self._keys.session_journal(session_id), 0, -1)
        return [orjson.loads(entry) for entry in reply]

    async def states(self, session_ids: Sequence[str]) -> dict[str, tuple[SessionState, str | None]]:
        """State and error of many sessions; those that are not stored are left out."""
        pending = [
            self._redis.command("HMGET", self._keys.session(s), "deadline_ms", "state", "end") for s in session_ids
        ]
        found = {}
        for session_id, reply in zip(session_ids, pending, strict=True):
            deadline_ms, state, end = await reply
            if deadline_ms:
                stands = SessionState(state.decode()) if state else SessionState.CREATED
                # What came out of most is of no matter here, and may be long.
                error = None if stands is SessionState.COMPLETED else parse_end(end)[1].get("error")
                found[session_id] = (stands, error or None)
        return found

    async def page(self, *, client_id: str | None, limit: int, before: str = "") -> list[tuple[str, Session | None]]:
        """Up to `limit` newest sessions (of one client), each with its place in the index for `before`.

        A place whose session has lived out its time comes with None.
        """
        places = await (self._places_of(client_id, before) if client_id else self._places(limit, before))
        places = places[:limit]
        ids = [placed.partition(":")[2] for placed in places]
        pending = [self._redis.command("HGETALL", self._keys.session(s)) for s in ids]
        found = [(await reply) for reply in pending]
        sessions = [parse(f) if f else None for f in found]
        # An id that was used again, or was refused because it is in use, has places that are not its session's.
        return [
            (placed, session if session and placed == place(session) else None)
            for placed, session in zip(places, sessions, strict=True)
        ]

    async def _places(self, limit: int, before: str) -> list[str]:
        """Of all sessions, newest first."""
        await self._index.flush()
        top = f"({before}" if before else "+"
        members = await self._redis.command("ZREVRANGEBYLEX", self._keys.sessions(), top, "-", "LIMIT", 0, limit)
        return [m.decode() for m in members]

    async def _places_of(self, client_id: str, before: str) -> list[str]:
        """Of one client's newest sessions, all of them: they came in no strict order."""
        entries = await self._redis.command("LRANGE", self._keys.client_sessions(client_id), 0, -1)
        places = sorted({listed_place(entry) for entry in entries}, reverse=True)
        return [placed for placed in places if not before or placed < before]

    async def _tell(self, node_ids: bytes, kind: str, session_id: str) -> None:
        """Wake the nodes that a script named because it could not wake them itself."""
        if not self._voice.script_prefix:
            await self._voice.tell_all(node_ids.decode().split(), kind, session_id)

    def _life_ms(self, span_s: float) -> int:
        return int((span_s + self._result_ttl_s) * 1000)
