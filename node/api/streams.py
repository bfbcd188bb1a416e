"""Server-sent events: what happens in a session, as it happens.

`GET /api/sessions/{id}/events` begins with what has happened, goes on with what does, and ends with the session. Each
event's id is its place in the session's stream, so that a client that lost the connection goes on, on any node, where
`Last-Event-ID` says. Woken by the bus, never by polling; a comment every 15 s keeps proxies from closing. Format:
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import re
from collections.abc import AsyncIterator, Callable

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from node.api.context import Context
from node.serving.http_errors import ApiError
from shared_state.errors import SessionNotFound, StateUnavailable
from shared_state.sessions import TERMINAL, Event

__all__ = ["session_events"]

KEEP_ALIVE_S = 15.0
RETRY_MS = 1000
_EVENT_ID = re.compile(r"\d{1,15}-\d{1,15}")
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def session_events(context: Context, request: Request) -> Response:
    """`GET /api/sessions/{session_id}/events`."""
    session_id = request.path_params["session_id"]
    after = request.headers.get("last-event-id") or request.query_params.get("after") or ""
    if after and not _EVENT_ID.fullmatch(after):
        raise ApiError(400, "Last-Event-ID: must be the id of an earlier event")
    if await context.service.current(await context.state.sessions.find(session_id)) is None:
        raise ApiError(404, "Unknown session: there is none with this id, or it has expired")
    # Streams have a bound of their own.
    return _Stream(context.limits.stream(request), _stream(context, session_id, after))


class _Stream(StreamingResponse):
    """The answer, which ends the stream's place however it ends: the generator may never have begun."""

    def __init__(self, end: Callable[[], None], content: AsyncIterator[bytes]) -> None:
        super().__init__(content, media_type="text/event-stream", headers=HEADERS)
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()


async def _stream(context: Context, session_id: str, after: str) -> AsyncIterator[bytes]:
    yield f"retry: {RETRY_MS}\n\n".encode()
    with context.followers.wait_for(session_id) as news:
        while not context.service.letting_go:
            try:
                # Asked before reading: what happens after the reading is then told.
                ended = await context.state.sessions.watch(session_id, context.node_id, events=True) in TERMINAL
                events = await context.state.sessions.events(session_id, after=after)
            except SessionNotFound:
                return
            except StateUnavailable:
                # The client comes back by itself, and goes on where it was.
                yield b'event: error\ndata: {"detail":"the cluster cannot be read now"}\n\n'
                return
            for event in events:
                after = event.event_id
                yield _written(event)
            if ended:
                return
            if not await news.wait(KEEP_ALIVE_S):
                yield b": still here\n\n"


def _written(event: Event) -> bytes:
    name = str(event.facts.get("event", "message"))
    data = orjson.dumps({"at_ms": event.at_ms, **event.facts})
    return f"id: {event.event_id}\nevent: {name}\ndata: ".encode() + data + b"\n\n"
