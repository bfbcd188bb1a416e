"""Reading requests: bodies and parameters, with errors that name the field."""

import asyncio
from functools import partial
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from aip_cluster.protocol import ProtocolError
from aip_cluster.protocol.codec import loads
from node.concurrency.parsing import LARGE_BYTES, Parsing
from node.serving.headers import headers_of
from node.serving.http_errors import ApiError

__all__ = ["dump", "flag", "integer", "read_json", "seconds", "validate"]

DIGITS = 12
# For each that it does not know, a model makes an error.
FIELDS_BOUND = 64
JSON = b"application/json"

_M = TypeVar("_M", bound=BaseModel)


async def read_json(request: Request, max_bytes: int, timeout_s: float, parsing: Parsing) -> dict[str, object]:
    """The body as a JSON object. Raises ApiError 400, 408 if it is not there in time, 413 or 415."""
    named = headers_of(request.scope)
    kind, declared = named.get(b"content-type", b""), named.get(b"content-length", b"")
    if kind != JSON and kind.partition(b";")[0].strip().lower() != JSON:
        raise ApiError(415, "Content-Type must be application/json")
    too_large = f"The body is larger than {max_bytes} bytes"
    if declared.isdigit() and int(declared) > max_bytes:
        raise ApiError(413, too_large)
    body = await _receive(request, max_bytes, timeout_s)
    if len(body) > max_bytes:
        raise ApiError(413, too_large)
    try:
        if len(body) <= LARGE_BYTES:
            data = loads(body)
        else:
            data = await parsing.parse(body, partial(loads, checked=True))
    except ProtocolError as exc:
        raise ApiError(400, str(exc).replace("frame", "body")) from None
    if not isinstance(data, dict):
        raise ApiError(400, "The body must be a JSON object")
    return data


async def _receive(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """The body; of one that is too large, only as much as tells that."""
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while len(body) <= max_bytes:
                message = await request.receive()
                if message["type"] != "http.request":
                    raise ApiError(400, "The body ended early")
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
    except TimeoutError:
        # What may come yet is nobody's any more.
        raise ApiError(
            408, f"The body did not arrive within {timeout_s:g} s", headers={"Connection": "close"}
        ) from None
    return bytes(body)


def validate(model: type[_M], data: dict[str, object]) -> _M:
    """`data` as `model`. Raises ApiError 400 that names every field at fault."""
    if len(data) > FIELDS_BOUND:
        raise ApiError(400, f"The body has {len(data)} fields; at most {FIELDS_BOUND} are allowed")
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        faults = []
        for error in exc.errors(include_url=False, include_input=False, include_context=False)[:10]:
            where = ".".join(str(part) for part in error["loc"])
            message = (
                "unknown field" if error["type"] == "extra_forbidden" else error["msg"].removeprefix("Value error, ")
            )
            faults.append(f"{where}: {message}")
        raise ApiError(400, "; ".join(faults)) from None


def flag(request: Request, name: str) -> bool:
    """A yes-or-no query parameter. Raises ApiError 400."""
    value = request.query_params.get(name, "0").lower()
    if value in {"1", "true", "yes", ""}:
        return True
    if value in {"0", "false", "no"}:
        return False
    raise ApiError(400, f"{name}: must be 1 or 0")


def seconds(request: Request, name: str, *, most: float) -> float:
    """A duration in seconds, 0 if absent, cut to `most`. Raises ApiError 400."""
    text = request.query_params.get(name)
    if text is None:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ApiError(400, f"{name}: must be a number of seconds, 0 or more")
    return min(value, most)


def integer(request: Request, name: str, *, default: int, least: int, most: int) -> int:
    """A whole number. Raises ApiError 400."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS or not least <= int(text) <= most:
        raise ApiError(400, f"{name}: must be a whole number from {least} to {most}")
    return int(text)


def dump(model: BaseModel, *, without_none: bool = False) -> bytes:
    """A model as JSON bytes."""
    return orjson.dumps(model.model_dump(mode="json", exclude_none=without_none))
