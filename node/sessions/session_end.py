"""How the end of a session on this node is stored, and how its device hears of it.

An end that a device reports itself, of a session of which nothing but its start is stored and that only REST asked for,
travels together with the others of the moment (`shared_state.end_batch`). Every other end is a call of its own,
repeated until Redis is there. If another end was first, the device hears of that one.
"""

import logging

from node.sessions.live_session import LiveSession
from node.sessions.service import SessionService, task_end
from node.sessions.session import End
from shared_state.errors import Fenced, StateError
from shared_state.keys import live_together
from shared_state.sessions import Ending, SessionState

__all__ = ["ending_of", "may_travel_together", "send_end", "store_end", "tell_of_stored_end"]

log = logging.getLogger(__name__)


def ending_of(session: LiveSession, end: End) -> Ending:
    """The end as it is stored, with all that is not stored yet."""
    return Ending(
        session.session_id,
        end.state,
        end.result,
        end.error,
        generation=session.connection.generation if end.fenced else None,
        client_id=session.spec.client_id,
        created_ms=session.spec.identity_ms,
        behind=session.unstored.take(),
    )


def may_travel_together(session: LiveSession, end: End) -> bool:
    """Whether the end may be stored with others, as far as is known here.

    What is traced has an end of its own: calls to Redis belong to its trace.
    """
    spec = session.spec
    return (
        not end.tell_device
        and not session.unstored.has_stored
        and spec.owner == ""
        and not spec.commands
        and session.timing.carried is None
        and live_together(session.session_id, spec.client_id)
    )


async def store_end(service: SessionService, session: LiveSession, end: End, ending: Ending) -> None:
    """Store an end, and tell the device. Waits for as long as Redis is away."""
    spec = session.spec
    try:
        ended = await service.end_surely(ending, owned=spec.owner != "")
    except Fenced:
        log.info("the end of a session that is driven elsewhere", extra={"session_id": spec.session_id})
        return
    finally:
        session.connection.taken.discard(spec.mark)
    if isinstance(ended, SessionState):
        await tell_of_stored_end(service, session)
    elif end.tell_device:
        session.connection.send(task_end(spec.session_id, spec.task_name, end.state, ending.result, ending.error))


async def tell_of_stored_end(service: SessionService, session: LiveSession) -> None:
    """Tell the device how its session has ended; that it is cancelled if that cannot be read."""
    try:
        stored = await service.stored_end(session.session_id)
    except StateError:
        stored = None
    if stored is None:
        send_end(session, None)
    else:
        session.connection.send(stored)


def send_end(session: LiveSession, error: str | None) -> None:
    """Tell the device that its session is cancelled."""
    end = task_end(session.session_id, session.spec.task_name, SessionState.CANCELLED, None, error)
    session.connection.send(end)
