"""Sends tasks to devices, wherever in the cluster they are connected.

A dispatch leaves either a session that is on its way to its device, or nothing. Only when Redis goes away in its midst
is the outcome unknown: then nothing is taken back, the caller is told which session to read, and the same `Attempt` may
be repeated, since every step of it knows itself again.

The usual way is one call: the task's name is claimed, the session stored and its node woken. In a Redis Cluster the
name is in another slot, and claimed first; so is one that an ended session has. What the device can do is known from
earlier dispatches (`ClientCache`); the call checks that it still holds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from aip_cluster.protocol import ClientType, new_id
from aip_cluster.protocol.ids import made_ms, now_ms
from node.sessions.client_cache import ClientCache, Known
from node.sessions.node_load import NodeLoad
from node.sessions.planners import Planner, PlannerRefused, Planners
from node.sessions.task_request import NewTask
from node.sessions.task_spec import commands_to_json
from node.telemetry.metrics import Limit, Metrics
from node.telemetry.trace import current_traceparent
from shared_state import State
from shared_state.clients import Registration
from shared_state.delay_queue import DUE_MARGIN_S, DueKind
from shared_state.errors import InboxFull, NameHeld, NotRegistered, StateError, StateUnavailable, TooManySessions
from shared_state.inbox import SessionRef, task_message
from shared_state.keys import live_together, new_session_id
from shared_state.session_create import ANYONE, ExpectedVersion
from shared_state.sessions import Session
from shared_state.task_record import task_fields

__all__ = ["Attempt", "Dispatcher"]

log = logging.getLogger(__name__)

REPEAT_AFTER_S = 0.2


class _Unknown(Exception):
    """Redis went away in the midst of a dispatch."""


class Attempt(NamedTuple):
    """One dispatch under ids that stay the same when it is repeated, because its outcome was not known.

    `token` names its claim of the task's name, and its TASK message. `given_id`: the session id was chosen by a client,
    and may be somebody else's; one of our making is nobody else's, and is the token as well.
    """

    session_id: str
    token: str
    created_ms: int
    given_id: bool

    @classmethod
    def fresh(cls, client_id: str) -> "Attempt":
        """A new attempt to send a task to `client_id`."""
        session_id = new_session_id(client_id)
        return cls(session_id, session_id, made_ms(session_id), given_id=False)

    def lives_beside(self, client_id: str) -> bool:
        """Whether the session may be stored and posted in one call: its id is of our making, and for this device."""
        return not self.given_id and live_together(self.session_id, client_id)

    @classmethod
    def under(cls, session_id: str) -> "Attempt":
        """A new attempt under a session id that a client chose."""
        return cls(session_id, new_id(), now_ms(), given_id=True)


@dataclass(slots=True)
class _Naming:
    """A task's name on its way to its session: claimed `with_start`, or by itself; `before` is who had it then.

    `beside`: the session lives beside its device, see `Attempt.lives_beside`.
    """

    attempt: Attempt
    name: str
    span_s: float
    beside: bool
    with_start: bool
    before: str | None = None

    @property
    def needed(self) -> bool:
        """Whether the name is yet to be claimed. A session's own id is nobody else's name, unless a client chose it."""
        return self.before is None and (self.name != self.attempt.session_id or self.attempt.given_id)


class Dispatcher:
    """Begins sessions."""

    def __init__(self, state: State, planners: Planners, node_load: NodeLoad, metrics: Metrics) -> None:
        self._state = state
        self._planners = planners
        self._node_load = node_load
        self._metrics = metrics
        self._client_cache = ClientCache(state.clients)

    async def dispatch(self, task: NewTask, attempt: Attempt | None = None) -> Session:
        """Send a task to a device, wherever it is connected; to one that is away for a moment, once it is back.

        Raises NotRegistered, TaskNameTaken, SessionExists, SessionEnded, PlannerRefused, InboxFull, TooManySessions or
        QuotaReached, and then no session is left behind. Raises StateUnavailable when Redis is away; whether the task
        was sent may then be unknown, as the text says, and the same `attempt` may be repeated: it sends the task once.
        """
        client_id, waits = task.client_id, task.queue_for_s is not None
        self._state.memory.check(waits=waits)
        beside = attempt is None or attempt.lives_beside(client_id)
        attempt = attempt or Attempt.fresh(client_id)
        name = task.task_name or attempt.session_id
        # What waits for its device has its whole time once the device is there.
        span_s = task.timeout_s + (task.queue_for_s or 0.0)
        naming = _Naming(attempt, name, span_s, beside, with_start=beside and self._state.session_creator.may_claim)
        known = self._client_cache.known(client_id)
        looking = None if known is not None else self._client_cache.look_up(client_id)
        if naming.needed and not naming.with_start:
            await self._claim_beside(looking, naming)

        def session_for(found: Registration | None) -> Session:
            planner = self._check(task, found, may_wait=waits).name
            return Session(
                **task_fields(task) | {"task_name": name, "planner": planner},
                session_id=attempt.session_id,
                request_id=task.request_id,
                fingerprint=task.fingerprint,
                created_ms=attempt.created_ms,
                deadline_ms=attempt.created_ms + int(span_s * 1000),
                commands=commands_to_json(task.commands),
                response_id=attempt.token,
                queue_until_ms=attempt.created_ms + int((task.queue_for_s or 0) * 1000) if waits else None,
                max_attempts=task.max_attempts,
                trace=current_traceparent(),
            )

        counted = False
        try:
            if task.queue_for_s is not None:
                # Before the session: whatever waits is looked at when it may wait no longer.
                await self._state.delay_queue.add(DueKind.SESSION, attempt.session_id, task.queue_for_s + DUE_MARGIN_S)
            if known is not None:
                session = self._as_known(known, session_for)
                if session is not None and await self._send(session, known.believed, naming):
                    return session
                self._client_cache.forget(client_id)
            found = await (looking or self._client_cache.look_up(client_id))
            session = session_for(found)
            if waits and (found is None or not found.node_id):
                # Before it is stored: whatever breaks now, it is counted too long at worst.
                await self._state.waiting.hold(session)
                counted = True
            await self._send(session, ANYONE, naming)
        except _Unknown as exc:
            # Nothing is taken back: the device may be at work, and the name guards against doing it twice.
            raise StateUnavailable(str(exc)) from None
        except Exception as exc:
            if counted:
                await self._quietly(self._state.waiting.free(client_id, [attempt.session_id]))
            await self._take_back(exc, client_id, naming)
            raise
        return session

    async def _claim_beside(self, looking: "asyncio.Task[Registration | None] | None", naming: _Naming) -> None:
        """Claim the name, while the device is looked up: the two travel together.

        Raises TaskNameTaken or StateUnavailable.
        """
        try:
            await self._claim(naming)
        except BaseException:
            if looking is not None:
                looking.cancel()
            raise

    async def _take_back(self, exc: Exception, client_id: str, naming: _Naming) -> None:
        """The task is refused, and nothing of it was stored but perhaps the claim of its name."""
        if isinstance(exc, TooManySessions):
            limit = Limit.SESSIONS_PER_DEVICE if exc.of_device else Limit.SESSIONS_PER_NODE
            self._metrics.refusals.labels(limit).inc()
        if isinstance(exc, NotRegistered):
            self._client_cache.forget(client_id)
        if naming.before is not None:
            release = self._state.sessions.release_task(naming.name, naming.attempt.token, restore=naming.before)
            await self._quietly(release)

    async def _claim(self, naming: _Naming) -> None:
        attempt = naming.attempt
        naming.before = await self._state.sessions.claim_task(
            naming.name, attempt.session_id, token=attempt.token, span_s=naming.span_s
        )

    @staticmethod
    def _as_known(known: Known, session_for: Callable[[Registration], Session]) -> Session | None:
        """The session by what was known of the device. None if that would refuse it, and may not hold any more."""
        try:
            return session_for(known.registration)
        except (NotRegistered, PlannerRefused, TooManySessions):
            # It may be able to do more by now, or be on another node.
            return None

    async def _send(self, session: Session, believed: ExpectedVersion, naming: _Naming) -> bool:
        """Store the session and post its task; repeated once if the answer got lost, since both know themselves.

        False if the device is not as it is believed to be; nothing is stored then.
        """
        repeats = 1
        while True:
            try:
                return await self._start(session, believed, naming)
            except NameHeld:
                # By a session that has ended, or else the task is refused.
                await self._claim(naming)
                continue
            except StateUnavailable as exc:
                if repeats == 0:
                    raise _Unknown(
                        f"{exc}; whether the task was sent is not known: "
                        f"read session '{session.session_id}' before sending it again"
                    ) from None
            repeats -= 1
            await asyncio.sleep(REPEAT_AFTER_S)

    def _check(self, task: NewTask, found: Registration | None, *, may_wait: bool) -> Planner:
        planner, commands = task.planner or None, task.commands
        if found is None and may_wait:
            return self._planners.choose(planner, commands=commands, features=frozenset())
        if found is None or found.client_type != ClientType.DEVICE:
            raise NotRegistered(f"Client '{task.client_id}' is not online")
        self._node_load.check(found.node_id)
        return self._planners.choose(planner, commands=commands, features=found.features)

    def _start(self, session: Session, believed: ExpectedVersion, naming: _Naming) -> Awaitable[bool]:
        # A device that is away, or whose node died a moment ago, finds the task in its inbox when it is back.
        wait_s = _wait_s(session)
        if not naming.beside:
            return self._create_and_post(session, wait_s)
        return self._state.session_creator.start(
            session, believed=believed, wait_s=wait_s, claims=naming.needed, durable=True
        )

    async def _create_and_post(self, session: Session, wait_s: float) -> bool:
        # An id that a client chose may be somebody else's: nothing may be sent before that is known.
        await self._state.sessions.create(session, durable=True)
        ref = SessionRef(session.session_id, session.deadline_ms, session.created_ms)
        try:
            await self._state.inbox.post(
                session.client_id, task_message(session), session=ref, wait_s=wait_s, durable=True
            )
        except (NotRegistered, InboxFull, TooManySessions):
            await self._quietly(self._state.sessions.discard(session))
            raise
        return True

    @staticmethod
    async def _quietly(call: Any) -> None:
        try:
            await call
        except StateError as exc:
            log.warning("left for its time to live to remove", extra={"reason": str(exc)})


def _wait_s(session: Session) -> float:
    return 0.0 if session.queue_until_ms is None else (session.queue_until_ms - session.created_ms) / 1000
