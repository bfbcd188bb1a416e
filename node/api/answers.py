"""JSON as an answer. What Starlette works out for each response (charset, cookies, length) is known here."""

from collections.abc import Mapping

from starlette.responses import Response

__all__ = ["JsonAnswer"]

_JSON = (b"content-type", b"application/json")


class JsonAnswer(Response):
    """Bytes of JSON, with a status and perhaps some headers."""

    # Starlette's own beginning is left out: it is what costs.
    def __init__(self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.body = body
        self.status_code = status
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), _JSON]
        if headers:
            given = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
            self.raw_headers[:0] = given
