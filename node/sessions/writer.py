"""What happens in the sessions of this node, on its way to Redis.

A step that commits the node to something is stored before it is taken (`store`), and waits for Redis, however long:
sent without being stored, it would be sent once more by the node that takes the session over, under another id. What
merely happened (a task was handed to its device, results came) is noted (`note`): it travels with the next step or with
the end, and is stored by itself if neither comes within `LATE_S`. A node that dies in that moment leaves a task that
looks as if its device had never got it; it is handed over once more, under the same id.

The calls of one session go to Redis one after the other. While Redis is away, at most `NOTED_BOUND` events of a session
are kept.
"""

import asyncio
import logging
import time
from collections import deque
from typing import Any

from aip_cluster.protocol.backoff import Backoff
from aip_cluster.protocol.ids import now_ms
from node.sessions.session import Store
from node.sessions.task_spec import TaskSpec
from shared_state.errors import Fenced, SessionNotFound, StateUnavailable
from shared_state.session_record import event_json
from shared_state.sessions import Behind, Sessions, SessionState

__all__ = ["RETRY_BASE_S", "Unstored", "Writer"]

log = logging.getLogger(__name__)

RETRY_BASE_S = 0.1
RETRY_CAP_S = 1.0
# Of what merely happened: thousands of sessions may have something behind while Redis is away.
LATE_RETRY_CAP_S = 5.0
LATE_S = 0.05
NOTED_BOUND = 100


class Unstored:
    """What has happened in one session and is not stored yet. `over`: nobody waits for its steps any more."""

    __slots__ = ("behind", "generation", "has_stored", "late", "over", "spec", "storing")

    def __init__(self, spec: TaskSpec, generation: int, *, has_stored: bool) -> None:
        """`generation`: that of the device's connection. `has_stored`: more than its start may be stored of it."""
        self.spec = spec
        self.generation = generation
        self.behind = Behind()
        # Done when the call that is on its way has been answered, or has failed.
        self.storing: asyncio.Future[None] | None = None
        self.has_stored = has_stored
        # Whether a call for what is late is under way.
        self.late = False
        self.over = False

    def __bool__(self) -> bool:
        """Whether anything is not stored, as far as is known: what is on its way may come back."""
        return self.storing is not None or bool(self.behind)

    async def settled(self) -> None:
        """Return once no call of the session is on its way. Cancelling is safe."""
        while self.storing is not None:
            await asyncio.wait([self.storing])

    def take(self) -> Behind:
        """What is behind, for a call that stores it."""
        behind, self.behind = self.behind, Behind()
        return behind

    def put_back(self, behind: Behind) -> None:
        """The call failed: what was taken is behind again, before what happened since."""
        self.behind.stamps = {**self.behind.stamps, **behind.stamps}
        self.behind.events = [*behind.events, *self.behind.events][:NOTED_BOUND]


class Writer:
    """Stores steps, repeats them, and gathers what can travel together."""

    def __init__(self, sessions: Sessions, node_id: str) -> None:
        self._sessions = sessions
        self._node_id = node_id
        self._dispatched = event_json({"event": "dispatched", "node_id": node_id})
        # Sessions for which something was noted, and when: most have stored it, or have ended, since.
        self._noted: deque[tuple[float, Unstored]] = deque()

    def note_dispatched(self, session: Unstored, facts: dict[str, str]) -> dict[str, Any]:
        """The task was handed to its device. Returns the event; `facts` are added to it."""
        at_ms = now_ms()
        session.behind.stamps["dispatched_ms"] = at_ms
        event = {"event": "dispatched", "node_id": self._node_id, **facts}
        self._note(session, at_ms, event_json(event) if facts else self._dispatched)
        return event

    def note(self, session: Unstored, event: dict[str, Any]) -> None:
        """Something happened."""
        self._note(session, now_ms(), event_json(event))

    async def store(self, session: Unstored, step: Store) -> SessionState | None:
        """Store a step, and what is behind. Returns the state that stands, or None if the session is over here.

        Raises Fenced if a newer connection drives the session, and SessionNotFound. Cancelling is safe: the step may be
        stored.
        """
        at_ms = now_ms()
        # Where they belong among what is behind, however often the call is repeated.
        session.behind.events += [(at_ms, event_json(event)) for event in step.events]
        backoff = Backoff(RETRY_BASE_S, RETRY_CAP_S)
        while True:
            await session.settled()
            if session.over:
                return None
            try:
                return await self._advance(session, step)
            except StateUnavailable as exc:
                needed = step.state is not None or len(step.journal) > 0
                level = logging.WARNING if needed else logging.DEBUG
                log.log(level, "step not stored", extra={"session_id": session.spec.session_id, "reason": str(exc)})
                if not needed:
                    return SessionState.RUNNING
            await asyncio.sleep(backoff.next_s())

    async def _advance(self, session: Unstored, step: Store) -> SessionState:
        behind = session.take()
        stored = session.storing = asyncio.get_running_loop().create_future()
        session.has_stored = True
        try:
            return await self._sessions.advance(
                session.spec.session_id,
                step.state,
                event=None,
                generation=session.generation,
                created_ms=session.spec.identity_ms,
                journal=step.journal,
                behind=behind,
                node_id=self._node_id,
                **step.fields,
            )
        except StateUnavailable:
            session.put_back(behind)
            raise
        finally:
            session.storing = None
            stored.set_result(None)

    async def store_late(self, session: Unstored) -> SessionState | None:
        """Store what is behind by itself, repeated for as long as Redis is away; what happens meanwhile goes along.

        Returns the state that stands, or None if there was nothing (more) to store. Raises as `store` does.
        """
        backoff = Backoff(RETRY_BASE_S, LATE_RETRY_CAP_S)
        try:
            while True:
                await session.settled()
                if session.over or not session.behind:
                    return None
                try:
                    return await self._advance(session, _of_behind(session.behind))
                except StateUnavailable as exc:
                    log.debug("events not stored", extra={"session_id": session.spec.session_id, "reason": str(exc)})
                await asyncio.sleep(backoff.next_s())
        finally:
            self.look_again_at(session)

    async def flush(self, session: Unstored) -> None:
        """Store what is behind of a session that this node lets go. Gives up if Redis is away."""
        await session.settled()
        if not session.behind:
            return
        try:
            await self._advance(session, _of_behind(session.behind))
        except (StateUnavailable, Fenced, SessionNotFound) as exc:
            level = logging.WARNING if isinstance(exc, StateUnavailable) else logging.INFO
            extra = {"session_id": session.spec.session_id, "reason": str(exc)}
            log.log(level, "what happened is not stored", extra=extra)

    # -- what is late ------------------------------------------------------------------------------------------------
    def late(self, now_s: float) -> list[Unstored]:
        """The sessions of which something is to be stored by itself; empty if the oldest is not late yet.

        Those that have waited half as long go along, so that there are not many such moments; but not all: most
        sessions end in a moment, and what is noted of them travels with their end.
        """
        if not self._noted or now_s - self._noted[0][0] < LATE_S:
            return []
        late: list[Unstored] = []
        while self._noted and now_s - self._noted[0][0] >= LATE_S / 2:
            session = self._noted.popleft()[1]
            if session.behind and not session.over and not session.late:
                session.late = True
                late.append(session)
        return late

    def next_late_s(self) -> float | None:
        """When to look for what is late, by the monotonic clock; None if nothing is noted."""
        return self._noted[0][0] + LATE_S if self._noted else None

    def look_again_at(self, session: Unstored) -> None:
        """What is behind of it is not stored: it will be late once more."""
        session.late = False
        if session.behind and not session.over:
            self._noted.append((time.monotonic(), session))

    def _note(self, session: Unstored, at_ms: int, event: bytes) -> None:
        if len(session.behind.events) < NOTED_BOUND:
            session.behind.events.append((at_ms, event))
            self._noted.append((time.monotonic(), session))


def _of_behind(behind: Behind) -> Store:
    return Store(SessionState.DISPATCHED if "dispatched_ms" in behind.stamps else None, ())
