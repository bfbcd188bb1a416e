"""Sessions for the whole cluster: ended, waited for, read, from any node. `dispatching` begins them.

`end` is final wherever it is called: whoever asked for the task is told once, through its inbox. When Redis is away
every call raises StateUnavailable; an end that must not be lost is repeated by `end_surely`.
"""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import orjson

from aip_cluster.protocol import ServerMessage, ServerMessageType, TaskStatus, encode, new_id, utc_now
from aip_cluster.protocol.backoff import Backoff
from aip_cluster.protocol.ids import now_ms
from node.sessions.task_spec import TaskSpec
from node.sessions.waiters import Waiters
from node.telemetry.metrics import Metrics
from node.telemetry.trace import carried, facts
from shared_state import State
from shared_state.delay_queue import DueKind
from shared_state.errors import (
    Fenced,
    InboxFull,
    NotRegistered,
    SessionNotFound,
    StateError,
    StateFull,
    StateUnavailable,
)
from shared_state.sessions import TERMINAL, Ended, EndIf, Ending, Session, SessionState

__all__ = ["CANCELLED", "DEVICE_GONE", "SUPERSEDED", "SessionService", "end_message", "task_end"]

log = logging.getLogger(__name__)

DEVICE_GONE = "Task was cancelled because target device disconnected"
CANCELLED = "Task was cancelled on request"
SUPERSEDED = "superseded by a new request"
RETRY_BASE_S = 0.2
RETRY_CAP_S = 2.0
RETRY_FOR_S = 600.0
# How long the end of a session waits for memory in Redis before its result is given up.
ROOM_FOR_S = 10.0
NO_ROOM = "the result could not be stored: Redis is out of memory; give it more, or wait until results have expired"
# Whoever is told later than that may be told by another node. Sooner than the mark of a posted message expires.
TOLD_WITHIN_S = 10.0
# Whoever was told sooner than that is not told twice: the mark of the message stands.
SURELY_TOLD_S = 30.0


def task_end(session_id: str, task_name: str, state: SessionState, result: Any, error: str | None) -> ServerMessage:
    """The message that tells of an end. UFO's clients know two outcomes: completed, and failed with a reason."""
    completed = state is SessionState.COMPLETED
    return ServerMessage(
        type=ServerMessageType.TASK_END,
        status=TaskStatus.COMPLETED if completed else TaskStatus.FAILED,
        session_id=session_id,
        task_name=task_name,
        result=result,
        error=None if completed else error or f"Task {state.value}",
        response_id=new_id(),
        timestamp=utc_now(),
        metadata=carried(),
    )


def end_message(session_id: str, created_ms: int, end: ServerMessage) -> bytes:
    """The message for the inbox of whoever asked for a session.

    It says when the session was created: another may have been asked for under the same id since.
    """
    return f"end\n{session_id}\n{created_ms}\n".encode() + encode(end)


class SessionService:
    """What REST, sockets and the reaper do with sessions."""

    def __init__(self, state: State, metrics: Metrics, waiters: Waiters, node_id: str) -> None:
        self._state = state
        self._metrics = metrics
        self._waiters = waiters
        self._node_id = node_id

    # -- the end ---------------------------------------------------------------------------------------------------
    async def end(self, ending: Ending, *, stop_device: bool = False, owned: bool = True) -> Ended | SessionState:
        """End a session, and tell whoever asked for it; with `stop_device` its device too.

        `owned` is False where it is known that only REST asked for it: then there is nobody to be told.
        Returns `Ended` if this end did it, else the state that stands. Raises SessionNotFound, StateUnavailable, and
        Fenced if a newer connection drives it; repeating the same ending is safe, and finishes what a failure left
        undone.
        """
        session_id, state, error = ending.session_id, ending.state, ending.error
        if owned:
            # Should this node die after the end was stored, another one tells of it.
            due = self._state.delay_queue.add(DueKind.END, session_id, TOLD_WITHIN_S)
            ended, _ = await asyncio.gather(self._state.sessions.end(ending), due)
        else:
            ended = await self._state.sessions.end(ending)
        if not isinstance(ended, Ended):
            if ended in TERMINAL:
                self._metrics.late_ends.inc()
                if owned:
                    await self._forget_if_told(session_id)
            return ended
        end = task_end(session_id, ended.task_name, state, ending.result, error) if ended.owner else None
        if end is not None or stop_device or not ended.settled:
            await self._spread(ended, end, ending.end_id, stop_device=stop_device)
        if owned:
            await self._state.delay_queue.forget(DueKind.END, session_id)
        self.note_end(ending, ended.client_id)
        return ended

    def note_end(self, ending: Ending, client_id: str) -> None:
        """A session of that client was ended by this, and everything that belongs to its end is done."""
        state = ending.state
        self._metrics.sessions_ended[state].inc()
        self._state.events.append(
            "session_ended",
            session_id=ending.session_id,
            client_id=client_id,
            state=str(state),
            error=ending.error,
            **facts(),
        )

    async def _spread(self, ended: Ended, end: ServerMessage | None, end_id: str, *, stop_device: bool) -> None:
        """Settle the session with its device, and tell of its end whoever is to hear of it."""
        following: list[Awaitable[None]] = []
        if not ended.settled:
            following.append(self._state.inbox.settle(ended.client_id, ended.session_id))
        if end is not None and ended.owner != ended.client_id:
            following.append(self._tell_owner(ended.owner, ended.session_id, ended.created_ms, end, end_id))
        if stop_device:
            following.append(self._stop_device(ended.client_id, ended.session_id, ended.created_ms, end_id))
        if following:
            await asyncio.gather(*following)

    async def end_surely(
        self, ending: Ending, *, stop_device: bool = False, owned: bool = True
    ) -> Ended | SessionState | None:
        """`end`, repeated while Redis is away, for ten minutes. None if the session is not stored any more.

        A result for which Redis has no memory, for ten seconds, is left out, and the session fails.

        Raises Fenced as `end` does.
        """
        backoff, waited_s = Backoff(RETRY_BASE_S, RETRY_CAP_S), 0.0
        while True:
            try:
                return await self.end(ending, stop_device=stop_device, owned=owned)
            except SessionNotFound:
                return None
            except StateUnavailable as exc:
                if isinstance(exc, StateFull) and waited_s >= ROOM_FOR_S and ending.result is not None:
                    ending = replace(ending, state=SessionState.FAILED, result=None, error=NO_ROOM)
                elif waited_s >= RETRY_FOR_S:
                    facts = {"session_id": ending.session_id, "reason": str(exc)}
                    log.error("an end could not be stored", extra=facts)
                    return None
            delay_s = backoff.next_s()
            await asyncio.sleep(delay_s)
            waited_s += delay_s

    async def _forget_if_told(self, session_id: str) -> None:
        """A late end asked for a second telling; of an end of long ago that would be news for nobody."""
        session = await self._state.sessions.find(session_id)
        if session is None or now_ms() - (session.ended_ms or 0) >= SURELY_TOLD_S * 1000:
            await self._state.delay_queue.forget(DueKind.END, session_id)

    async def _stop_device(self, client_id: str, session_id: str, created_ms: int, end_id: str) -> None:
        """Have the device told that a session has ended.

        Through its inbox: a node that does not hear the bus just now reads it there.
        """
        await self._tell(client_id, f"ended\n{session_id}\n{created_ms}".encode(), f"stop:{session_id}:{end_id}")

    async def _tell_owner(self, owner: str, session_id: str, created_ms: int, end: ServerMessage, end_id: str) -> None:
        await self._tell(owner, end_message(session_id, created_ms, end), f"end:{session_id}:{end_id}")

    async def tell_again(self, session_id: str) -> None:
        """The node that ended the session may have died before telling whoever asked for it. Raises StateUnavailable.

        Told once, all the same: the message has an id.
        """
        session = await self._state.sessions.find(session_id)
        if session is not None and session.state in TERMINAL and session.owner not in {"", session.client_id}:
            end = task_end(session_id, session.task_name, session.state, session.result, session.error)
            await self._tell_owner(session.owner, session_id, session.created_ms, end, session.end_id)

    async def _tell(self, client_id: str, message: bytes, message_id: str) -> None:
        """Post a message, once, to a client that may be gone. Raises StateUnavailable."""
        try:
            await self._state.inbox.post(client_id, message, message_id=message_id)
        except NotRegistered:
            log.info("nobody there to be told; the result stays readable", extra={"client_id": client_id})
        except InboxFull as exc:
            log.warning("not told", extra={"client_id": client_id, "reason": str(exc)})

    async def tell_progress(self, order: TaskSpec, event: dict[str, Any]) -> None:
        """Tell the client that asked for a task, and for its progress, of a step. Best effort."""
        message = ServerMessage(
            type=ServerMessageType.HEARTBEAT,
            status=TaskStatus.CONTINUE,
            session_id=order.session_id,
            task_name=order.task_name,
            messages=[orjson.dumps(event).decode(), *event.get("messages", ())],
            response_id=new_id(),
            timestamp=utc_now(),
        )
        try:
            await self._state.inbox.post(order.owner, b"frame\n" + encode(message))
        except StateError as exc:
            log.debug("progress not told", extra={"session_id": order.session_id, "reason": str(exc)})

    async def cancel(self, session_id: str) -> Ended | SessionState:
        """Cancel a session from any node; its device is told to stop. Raises SessionNotFound, StateUnavailable.

        Repeating finishes what a failure left undone.
        """
        outcome = await self.end(Ending(session_id, SessionState.CANCELLED, error=CANCELLED), stop_device=True)
        if outcome is SessionState.CANCELLED:
            session = await self._state.sessions.find(session_id)
            if session is not None:
                await self._stop_device(session.client_id, session_id, session.created_ms, session.end_id)
        return outcome

    async def supersede(self, session: Session) -> None:
        """End a session because whoever asked for it now asks for something else under the same id.

        Its device stops it before it gets what follows. The requester is not told: to it, an end under this id would be
        that of its new request. Raises StateUnavailable; safe to repeat.
        """
        ending = Ending(session.session_id, SessionState.CANCELLED, error=SUPERSEDED, created_ms=session.created_ms)
        try:
            ended = await self._state.sessions.end(ending)
        except (SessionNotFound, Fenced):
            return  # its time is over, or it was superseded before
        await self._state.inbox.settle(session.client_id, session.session_id)
        # Told by the name of the session that was read: repeated, this posts the message once.
        message = f"superseded\n{session.session_id}\n{session.created_ms}".encode()
        message_id = f"superseded:{session.session_id}:{session.created_ms}"
        await self._tell(session.client_id, message, message_id)
        if isinstance(ended, Ended):
            self.note_end(ending, session.client_id)

    # -- reading ---------------------------------------------------------------------------------------------------
    @property
    def stopping(self) -> bool:
        """Whether the node is on its way out."""
        return self._waiters.stopping

    @property
    def letting_go(self) -> bool:
        """Whether requests are not to be held any longer: the node is being emptied, or on its way out."""
        return self._waiters.letting_go

    async def stored_end(self, session_id: str, created_ms: int | None = None) -> ServerMessage | None:
        """What tells of the end of a session; None if it has not ended, or is not stored (any more).

        With `created_ms` only of the one that was created then. Raises StateUnavailable.
        """
        session = await self._state.sessions.find(session_id)
        if session is None or session.state not in TERMINAL or created_ms not in {None, session.created_ms}:
            return None
        return task_end(session_id, session.task_name, session.state, session.result, session.error)

    async def asked_by(self, session_id: str, client_id: str) -> Session | None:
        """The session of this id, if `client_id` asked for it. Raises StateUnavailable."""
        session = await self._state.sessions.find(session_id)
        return session if session is not None and session.owner == client_id else None

    async def current(self, session: Session | None) -> Session | None:
        """`session`, ended first if its deadline has passed and its node did not do it."""
        if session is None or session.state in TERMINAL or session.deadline_ms > now_ms():
            return session
        error = f"Task timed out after {session.timeout_s:g} s"
        ending = Ending(session.session_id, SessionState.TIMED_OUT, error=error, end_if=EndIf.OVERDUE)
        try:
            await self.end(ending, stop_device=True)
        except SessionNotFound:
            return None
        return await self._state.sessions.find(session.session_id)

    async def wait(self, session: Session, wait_s: float) -> Session | None:
        """The session once it has ended, or as it is after `wait_s`. Cancelling is safe."""
        if session.state not in TERMINAL and wait_s > 0:
            with self._waiters.wait_for(session.session_id) as ended:
                end = asyncio.get_running_loop().time() + wait_s
                while True:
                    if await self._state.sessions.watch(session.session_id, self._node_id) in TERMINAL:
                        break
                    left_s = min(end - asyncio.get_running_loop().time(), self._until_deadline_s(session))
                    if not await ended.wait(left_s) or self._waiters.letting_go:
                        break
        return await self.current(await self._state.sessions.find(session.session_id))

    @staticmethod
    def _until_deadline_s(session: Session) -> float:
        # A little later than the deadline, so that the node that runs the session ends it first.
        return max(0.0, (session.deadline_ms - now_ms()) / 1000 + 0.5)
