"""A response whose body is JSON already, as bytes."""

from starlette.responses import Response

__all__ = ["JsonAnswer"]


class JsonAnswer(Response):
    """Bytes of JSON, with a status and perhaps some headers."""

    media_type = "application/json"
