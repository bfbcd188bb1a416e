"""Sends tasks to devices, wherever in the cluster they are connected.

A dispatch leaves either a session that is on its way to its device, or nothing. Only when Redis goes away in its midst
is the outcome unknown: then nothing is taken back, the caller is told which session to read, and the same `Attempt` may
be repeated, since every step of it knows itself again.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aip import ClientType, Command, new_id
from aip.ids import now_ms
from node.sessions.loads import NodeLoads
from node.sessions.orders import TaskOrder
from node.sessions.planners import Planner, Planners
from node.telemetry.metrics import Limit, Metrics
from shared_state import State
from shared_state.clients import Registration
from shared_state.errors import InboxFull, NotRegistered, StateError, StateUnavailable, TooManySessions
from shared_state.inbox import Posted, SessionRef
from shared_state.sessions import Session

__all__ = ["Attempt", "Dispatcher"]

log = logging.getLogger(__name__)

REPEAT_AFTER_S = 0.2


class _Unknown(Exception):
    """Redis went away in the midst of a dispatch."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One dispatch under ids that stay the same when it is repeated, because its outcome was not known.

    `given_id`: the session id was chosen by a client, and may be somebody else's.
    """

    session_id: str
    token: str
    created_ms: int
    given_id: bool

    @classmethod
    def fresh(cls, session_id: str | None = None) -> "Attempt":
        """A new attempt."""
        return cls(session_id or new_id(), new_id(), now_ms(), given_id=session_id is not None)


class Dispatcher:
    """Begins sessions."""

    def __init__(self, state: State, planners: Planners, loads: NodeLoads, metrics: Metrics) -> None:
        self._state = state
        self._planners = planners
        self._loads = loads
        self._metrics = metrics

    async def dispatch(
        self,
        *,
        client_id: str,
        request: str,
        task_name: str | None,
        commands: Sequence[Command],
        timeout_s: float,
        planner: str | None,
        metadata: dict[str, Any],
        owner: str = "",
        attempt: Attempt | None = None,
    ) -> Session:
        """Send a task to a device, wherever it is connected.

        Raises NotRegistered, TaskNameTaken, SessionExists, PlannerRefused, InboxFull or TooManySessions, and then no
        session is left behind. Raises StateUnavailable when Redis is away; whether the task was sent may then be
        unknown, as the text says, and the same `attempt` may be repeated: it sends the task once.
        """
        attempt = attempt or Attempt.fresh()
        name = task_name or attempt.session_id
        # The look-up and the claim travel together; both are awaited before anything is decided.
        found, claimed = await asyncio.gather(
            self._state.clients.find(client_id),
            self._state.sessions.claim_task(name, attempt.session_id, token=attempt.token, timeout_s=timeout_s),
            return_exceptions=True,
        )
        if isinstance(claimed, BaseException):
            raise claimed
        try:
            if isinstance(found, BaseException):
                raise found
            session = Session(
                session_id=attempt.session_id,
                client_id=client_id,
                task_name=name,
                request=request,
                planner=self._check(client_id, found, planner, commands).name,
                owner=owner,
                created_ms=attempt.created_ms,
                deadline_ms=attempt.created_ms + int(timeout_s * 1000),
                timeout_s=timeout_s,
                metadata=metadata,
            )
            await self._send(session, commands, given_id=attempt.given_id)
        except _Unknown as exc:
            # Nothing is taken back: the device may be at work, and the name guards against doing it twice.
            raise StateUnavailable(str(exc)) from None
        except Exception as exc:
            if isinstance(exc, TooManySessions):
                limit = Limit.SESSIONS_PER_DEVICE if exc.of_device else Limit.SESSIONS_PER_NODE
                self._metrics.refusals.labels(limit).inc()
            await self._quietly(self._state.sessions.release_task(name, attempt.token, restore=claimed))
            raise
        return session

    async def _send(self, session: Session, commands: Sequence[Command], *, given_id: bool) -> None:
        """Store the session and post its task; repeated once if the answer got lost, since both know themselves."""
        repeats = 1
        while True:
            try:
                await self._store_and_post(session, commands, given_id=given_id)
                return
            except StateUnavailable as exc:
                if repeats == 0:
                    raise _Unknown(
                        f"{exc}; whether the task was sent is not known: "
                        f"read session '{session.session_id}' before sending it again"
                    ) from None
            repeats -= 1
            await asyncio.sleep(REPEAT_AFTER_S)

    def _check(
        self, client_id: str, found: Registration | None, planner: str | None, commands: Sequence[Command]
    ) -> Planner:
        if found is None or found.client_type != ClientType.DEVICE:
            raise NotRegistered(f"Client '{client_id}' is not online")
        self._loads.check(found.node_id)
        return self._planners.choose(planner, commands=commands, features=found.features)

    async def _store_and_post(self, session: Session, commands: Sequence[Command], *, given_id: bool) -> None:
        order = TaskOrder(
            session_id=session.session_id,
            client_id=session.client_id,
            task_name=session.task_name,
            request=session.request,
            planner=session.planner,
            owner=session.owner,
            deadline_ms=session.deadline_ms,
            timeout_s=session.timeout_s,
            commands=list(commands),
            metadata=session.metadata,
        )
        ref = SessionRef(session.session_id, session.deadline_ms, session.created_ms, session.timeout_s)
        message = b"task\n" + order.to_json()
        if given_id:
            # An id that a client chose may be somebody else's: nothing may be sent before that is known.
            await self._state.sessions.create(session)
            await self._post(session, message, ref)
            return
        created, posted = await asyncio.gather(
            self._state.sessions.create(session), self._post(session, message, ref), return_exceptions=True
        )
        if isinstance(created, BaseException):
            raise created
        if isinstance(posted, BaseException):
            raise posted

    async def _post(self, session: Session, message: bytes, ref: SessionRef) -> Posted:
        try:
            posted = await self._state.inbox.post(session.client_id, message, session=ref)
            if posted.receivers == 0 and posted.node_id not in await self._state.nodes.live():
                # The registration of a dead node that nobody has removed yet.
                await self._state.inbox.take(session.client_id, posted.entry_id)
                await self._state.inbox.settle(session.client_id, session.session_id)
                raise NotRegistered(f"Client '{session.client_id}' is not online")
        except (NotRegistered, InboxFull, TooManySessions):
            await self._quietly(self._state.sessions.discard(session))
            raise
        return posted

    @staticmethod
    async def _quietly(call: Any) -> None:
        try:
            await call
        except StateError as exc:
            log.warning("left for its time to live to remove", extra={"reason": str(exc)})
