"""Frames to messages and back.

Decoding accepts every spelling that AIP.md section 1 names (aliases, upper case, the documents' request/response form)
and raises nothing but `ProtocolError`, whatever the bytes. Encoding writes the one form that UFO's clients parse.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from aip_cluster.protocol.errors import ProtocolError
from aip_cluster.protocol.files import FILE_FRAMES, FileFrame
from aip_cluster.protocol.messages import ClientMessage, ClientMessageType, Command, Result, ResultStatus, ServerMessage
from aip_cluster.protocol.structure import MAX_DEPTH, Text, check_structure

__all__ = [
    "Scrub",
    "decode_client",
    "decode_client_frame",
    "decode_server",
    "encode",
    "encode_payload_command",
    "loads",
]

# As clients spell them; they may be spelled otherwise.
_CLIENT_KINDS = frozenset(map(str, ClientMessageType))

# So much white space may precede a list that is refused unparsed.
SPACE_CHARS = 64

_M = TypeVar("_M", bound=BaseModel)
# Makes of the fields of a frame what may be read of them.
Scrub = Callable[[dict[str, Any]], dict[str, Any]]


def loads(raw: Text, *, checked: bool = False) -> Any:
    """JSON bytes to Python values.

    Raises ProtocolError if `raw` is not JSON, and TooLarge if it is nested over 200 levels or has more than 100,000
    values: that is looked at before anything is parsed, unless it was done already (`checked`: see
    `aip_cluster.protocol.structure`).
    """
    # What is shorter has no room for so many levels.
    if len(raw) > 2 * MAX_DEPTH and not checked:
        check_structure(raw)
    try:
        return orjson.loads(raw)
    except (orjson.JSONDecodeError, TypeError, UnicodeError, RecursionError) as exc:
        reason = exc.msg if isinstance(exc, orjson.JSONDecodeError) else type(exc).__name__
        raise ProtocolError(f"the frame is not valid JSON ({reason})") from None


def _validate(model: type[_M], data: dict[str, Any]) -> _M:
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        path = ""
        for part in first["loc"]:
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
        raise ProtocolError(first["msg"], field=path or None) from None


def _object(raw: Text, checked: bool = False, scrub: Scrub | None = None) -> dict[str, Any]:
    # Looked at before it is parsed: a list is not worth the memory.
    start = raw[:1]
    if start.isspace():
        start = raw[:SPACE_CHARS].lstrip()[:1]
    if start in ("[", b"["):
        raise ProtocolError("the frame must be a JSON object")
    data = loads(raw, checked=checked)
    if not isinstance(data, dict):
        raise ProtocolError("the frame must be a JSON object")
    if scrub is not None:
        data = scrub(data)
    # Absent and null are the same, also where a field has a default or an alias.
    return {name: value for name, value in data.items() if value is not None} if None in data.values() else data


def decode_client_frame(raw: Text, *, checked: bool = False, scrub: Scrub | None = None) -> ClientMessage | FileFrame:
    """A frame from a client, or the header of a file. Raises ProtocolError, naming the field, for anything else.

    `checked` is as for `loads`. `scrub` sees the fields before anything else does: what it returns is read.
    """
    data = _object(raw, checked, scrub)
    kind = data.get("type", data.get("message_type"))
    if not isinstance(kind, str) or kind in _CLIENT_KINDS:
        return _validate(ClientMessage, data)
    header = FILE_FRAMES.get(kind.lower())
    return _client(data) if header is None else _validate(header, {**data, "type": kind.lower()})


def decode_client(raw: bytes | str, *, scrub: Scrub | None = None) -> ClientMessage:
    """A message from a client; `scrub` is as for `decode_client_frame`.

    The documents' `{"type": "result", "request_id", "payload"}` becomes `command_results` with one Result and
    `prev_response_id = request_id`. Raises ProtocolError, naming the field, for anything else.
    """
    return _client(_object(raw, scrub=scrub))


def _client(data: dict[str, Any]) -> ClientMessage:
    kind = data.get("type", data.get("message_type"))
    if isinstance(kind, str) and kind.lower() == "result":
        return _from_payload(data)
    return _validate(ClientMessage, data)


def decode_server(raw: bytes | str) -> ServerMessage:
    """A frame from a server. Raises ProtocolError, naming the field, if it is not one."""
    return _validate(ServerMessage, _object(raw))


def encode(message: ClientMessage | ServerMessage | FileFrame) -> bytes:
    """The message as one JSON object without its null fields.

    Raises ProtocolError if `result`, `metadata` or a parameter holds a value that JSON cannot carry.
    """
    try:
        return orjson.dumps(message.model_dump(exclude_none=True))
    except (TypeError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"the message cannot be written as JSON ({exc})") from None


def encode_payload_command(command: Command, request_id: str, timestamp: str) -> bytes:
    """One command in the documents' request/response form; its answer repeats `request_id`."""
    payload = {"function": command.tool_name, "arguments": command.parameters or {}}
    return orjson.dumps({"type": "command", "request_id": request_id, "timestamp": timestamp, "payload": payload})


def _from_payload(data: dict[str, Any]) -> ClientMessage:
    payload, request_id = data.get("payload"), data.get("request_id")
    if not isinstance(payload, dict):
        raise ProtocolError("must be an object", field="payload")
    if not isinstance(request_id, str):
        raise ProtocolError("must be a string", field="request_id")
    status, error = payload.get("status"), payload.get("error")
    status = status.lower() if isinstance(status, str) else status
    if not isinstance(status, str) or status not in {"success", "error"}:
        raise ProtocolError("must be 'success' or 'error'", field="payload.status")
    result = Result(
        status=ResultStatus.SUCCESS if status == "success" else ResultStatus.FAILURE,
        result=payload.get("data"),
        error=None if error is None else str(error),
    )
    client_id, timestamp = data.get("client_id"), data.get("timestamp")
    return ClientMessage(
        type=ClientMessageType.COMMAND_RESULTS,
        client_id=client_id if isinstance(client_id, str) else None,
        request_id=request_id,
        prev_response_id=request_id,
        timestamp=timestamp if isinstance(timestamp, str) else None,
        action_results=[result],
    )
