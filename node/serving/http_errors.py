"""How a request fails: `{"detail": "…"}`, the right status, and nothing of our insides."""

import orjson
from starlette.responses import Response

from node.serving.json_answer import JsonAnswer
from shared_state.errors import (
    InboxFull,
    KeyOfAnotherRequest,
    NotRegistered,
    QuotaReached,
    SessionExists,
    SessionNotFound,
    StateError,
    StateUnavailable,
    TaskNameTaken,
    TooManySessions,
)
from shared_state.files import TooManyFiles

__all__ = ["UNKNOWN_SESSION", "ApiError", "failure", "from_state"]

UNKNOWN_SESSION = "Unknown session: there is none with this id, or it has expired"


class ApiError(Exception):
    """A request that cannot be served: `status`, and a sentence for its sender."""

    def __init__(self, status: int, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


_STATUS: dict[type[StateError], int] = {
    NotRegistered: 404,
    SessionNotFound: 404,
    TaskNameTaken: 409,
    SessionExists: 409,
    KeyOfAnotherRequest: 409,
    InboxFull: 429,
    QuotaReached: 429,
    TooManyFiles: 413,
    TooManySessions: 429,
}


def from_state(exc: StateError) -> ApiError:
    """The answer to a failure of the shared state."""
    if isinstance(exc, StateUnavailable):
        return ApiError(503, f"The cluster cannot serve this now: {exc}", headers={"Retry-After": "1"})
    status = _STATUS.get(type(exc))
    if status is None:
        return ApiError(500, "Internal error")
    # What fills a quota goes when devices come or results expire: not within the second.
    retry_after = "30" if isinstance(exc, QuotaReached) else "1"
    headers = {"Retry-After": retry_after} if status == 429 else {}
    detail = "Client not online" if isinstance(exc, NotRegistered) else str(exc)
    return ApiError(status, detail, headers=headers)


def failure(error: ApiError) -> Response:
    """The response that says what went wrong."""
    return JsonAnswer(orjson.dumps({"detail": error.detail}), error.status, error.headers)
