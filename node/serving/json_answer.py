"""JSON as an answer. What Starlette works out for each response (charset, cookies, length) is known here."""

from collections.abc import Coroutine, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from node.serving.request_cycle import exchange_of

__all__ = ["JsonAnswer"]

_JSON = (b"content-type", b"application/json")


class JsonAnswer(Response):
    """Bytes of JSON, with a status and perhaps some headers."""

    # Starlette's own beginning is left out: it is what costs.
    def __init__(self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.body: bytes = body
        self.status_code = status
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), _JSON]
        if headers:
            given = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
            self.raw_headers[:0] = given

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Send it: with one call where our own server is behind `send`."""
        exchange = exchange_of(send)
        if exchange is not None:
            return exchange.answer(self.status_code, self.raw_headers, self.body)
        return super().__call__(scope, receive, send)
