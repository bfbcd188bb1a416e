"""Sessions over REST: find them, read them, cancel them."""

import base64
import binascii

from starlette.requests import Request
from starlette.responses import Response

from node.api.context import Context, answer
from node.api.requests import integer
from node.api.schemas import CancelAnswer, SessionDetail, SessionsAnswer, SessionSummary, summary_fields
from node.serving.http_errors import UNKNOWN_SESSION, ApiError
from shared_state.errors import SessionNotFound
from shared_state.sessions import Ended, Session, SessionState

__all__ = ["cancel_session", "get_session", "list_sessions"]

PAGE = 100
SCAN_BOUND = 20


async def list_sessions(context: Context, request: Request) -> Response:
    """`GET /api/sessions`: newest first."""
    limit = integer(request, "limit", default=50, least=1, most=500)
    client_id = request.query_params.get("client_id")
    place = _decode(request.query_params.get("cursor"))
    found, place = await _matching(context, client_id, _state_of(request), limit, place)
    summaries = [SessionSummary(**summary_fields(s)) for s in found]
    return answer(SessionsAnswer(sessions=summaries, next_cursor=_encode(place) if place else None))


async def _matching(
    context: Context, client_id: str | None, state: SessionState | None, limit: int, place: str
) -> tuple[list[Session], str]:
    """Sessions behind `place`, and the place to go on from, '' at the end of the index.

    Bounded: fewer than `limit` may come back, with a place, when few of many match.
    """
    found: list[Session] = []
    last = place
    for _ in range(SCAN_BOUND):
        page = await context.state.sessions.page(client_id=client_id, limit=PAGE, before=place)
        for place, session in page:  # noqa: PLR1704 - the place moves on with what was read
            if session is None or (state is not None and session.state is not state):
                continue
            if len(found) == limit:
                # One more than was asked for: there is another page, and it begins here.
                return found, last
            found.append(session)
            last = place
        if len(page) < PAGE:
            return found, ""
    return found, last if len(found) == limit else place


async def get_session(context: Context, request: Request) -> Response:
    """`GET /api/sessions/{session_id}`."""
    session_id = request.path_params["session_id"]
    session = await context.service.current(await context.state.sessions.find(session_id))
    if session is None:
        raise ApiError(404, UNKNOWN_SESSION)
    events = await context.state.sessions.events(session_id)
    return answer(SessionDetail.of(session, [{"at_ms": e.at_ms, **e.facts} for e in events]))


async def cancel_session(context: Context, request: Request) -> Response:
    """`POST /api/sessions/{session_id}/cancel`."""
    session_id = request.path_params["session_id"]
    try:
        outcome = await context.service.cancel(session_id)
    except SessionNotFound:
        raise ApiError(404, UNKNOWN_SESSION) from None
    if isinstance(outcome, Ended):
        return answer(CancelAnswer(session_id=session_id, state=SessionState.CANCELLED, cancelled=True))
    return answer(CancelAnswer(session_id=session_id, state=outcome, cancelled=False))


def _state_of(request: Request) -> SessionState | None:
    text = request.query_params.get("state")
    if text is None:
        return None
    try:
        return SessionState(text)
    except ValueError:
        raise ApiError(400, f"state: must be one of {', '.join(SessionState)}") from None


def _encode(place: str) -> str:
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _decode(cursor: str | None) -> str:
    if not cursor:
        return ""
    try:
        place = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        place = ""
    head, colon, _ = place.partition(":")
    if not colon or not head.isdigit():
        raise ApiError(400, "cursor: must be the next_cursor of an earlier answer")
    return place
