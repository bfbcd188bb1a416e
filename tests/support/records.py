"""Registrations and sessions as a test needs them: every field that does not matter has a value."""

from typing import Any

from aip_cluster.protocol import new_id
from aip_cluster.protocol.ids import made_ms, now_ms
from shared_state import State
from shared_state.clients import Registration
from shared_state.inbox import SessionRef
from shared_state.keys import NEVER_MS
from shared_state.sessions import Ended, Ending, Session, SessionState

__all__ = ["a_registration", "a_session", "active_sessions", "end_session", "publish", "ref_of"]


def a_registration(client_id: str = "device-1", node_id: str = "node-a", **fields: Any) -> Registration:
    """A device on `node_id`, on a connection of its own."""
    given: dict[str, Any] = {"connection_id": new_id(), "client_type": "device", "since_ms": now_ms()} | fields
    return Registration(client_id=client_id, node_id=node_id, **given)


def a_session(session_id: str | None = None, *, created_ms: int | None = None, **fields: Any) -> Session:
    """A session on `device-1`, due in a minute; an id of the cluster's making says when it was created."""
    session_id = session_id or new_id()
    made = made_ms(session_id) if len(session_id) == len(new_id()) else now_ms()
    created = made if created_ms is None else created_ms
    given: dict[str, Any] = {
        "client_id": "device-1",
        "task_name": session_id,
        "request": "do it",
        "planner": "direct",
        "timeout_s": 60.0,
        "deadline_ms": created + 60_000,
    } | fields
    return Session(session_id=session_id, created_ms=created, **given)


def ref_of(session: Session) -> SessionRef:
    """What the inbox is told of a session."""
    return SessionRef(session.session_id, session.deadline_ms, session.created_ms)


async def end_session(
    state: State,
    session_id: str,
    to: SessionState = SessionState.COMPLETED,
    **options: Any,
) -> Ended | SessionState:
    """End a session; without an `end_id` as an end of its own."""
    return await state.sessions.end(Ending(session_id, to, **options))


async def active_sessions(state: State, client_id: str) -> int:
    """How many sessions count as active on the client."""
    key = state.keys.active(client_id)
    return int(await state.connection.command("ZCOUNT", key, "-inf", f"({NEVER_MS}"))


async def publish(state: State, node_id: str, frame: bytes) -> int:
    """Say `frame` on the channel of `node_id`. Returns how many heard it."""
    return await state.connection.publish(state.keys.channel(node_id), frame)
