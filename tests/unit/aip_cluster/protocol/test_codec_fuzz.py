"""Whatever a peer sends, decoding gives a message or a ProtocolError that says little."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aip_cluster.protocol import ClientMessage, ProtocolError, ServerMessage, decode_client, decode_server
from aip_cluster.protocol.codec import loads
from aip_cluster.protocol.errors import AIPError
from tests.support.wire import hostile_objects, json_values

Decoder = Callable[[bytes | str], ClientMessage | ServerMessage]
DECODERS: list[Decoder] = [decode_client, decode_server]


def _decode(decode: Callable[[bytes | str], object], raw: bytes | str) -> ProtocolError | None:
    try:
        decode(raw)
    except ProtocolError as exc:
        return exc
    return None


@pytest.mark.parametrize("decode", [*DECODERS, loads])
@given(raw=st.binary(max_size=200))
@example(raw=b"")
@example(raw=b"\xff\xfe{}")
@example(raw=b'{"type":"task"')
@example(raw=b'{"type":"register","client_id":"\xed\xa0\x80"}')
def test_any_bytes(decode: Callable[[bytes | str], object], raw: bytes) -> None:
    _decode(decode, raw)


@pytest.mark.parametrize("decode", [*DECODERS, loads])
@given(raw=st.text(st.characters(), max_size=200))
@example(raw="\ud800")
@example(raw='{"type":"register","client_id":"\\ud800"}')
@example(raw='{"type":"register","client_id":"\ud800"}')
@example(raw="NaN")
@example(raw="1e999")
@example(raw="-" * 10)
def test_any_text(decode: Callable[[bytes | str], object], raw: str) -> None:
    _decode(decode, raw)


@pytest.mark.parametrize("decode", DECODERS)
@given(value=json_values)
def test_any_json(decode: Decoder, value: Any) -> None:
    error = _decode(decode, orjson.dumps(value))
    if not isinstance(value, dict):
        assert error is not None
        assert "must be a JSON object" in str(error)


@pytest.mark.parametrize("decode", DECODERS)
@given(fields=hostile_objects)
@example(fields={"type": "result", "request_id": "r", "payload": {"status": []}})
@example(fields={"type": "result", "request_id": "r", "payload": {"status": {}}})
@example(fields={"type": [], "message_type": {}})
@example(fields={"type": "result", "request_id": "r", "payload": {"status": "error", "error": {"deep": [1]}}})
def test_right_names_with_wrong_values(decode: Decoder, fields: dict[str, Any]) -> None:
    _decode(decode, orjson.dumps(fields))


@pytest.mark.parametrize("decode", [*DECODERS, loads])
@pytest.mark.parametrize("depth", [201, 1_000, 1_024, 1_025, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting(decode: Callable[[bytes | str], object], depth: int, opening: str, closing: str) -> None:
    for raw in (opening * depth + "1" + closing * depth, opening * depth):
        assert _decode(decode, raw) is not None
        assert _decode(decode, raw.encode()) is not None
    wrapped = '{"type":"task_end","result":' + opening * depth + "1" + closing * depth + "}"
    assert _decode(decode, wrapped) is not None


@pytest.mark.parametrize("decode", DECODERS)
def test_a_long_frame_is_not_repeated_in_the_error(decode: Decoder) -> None:
    """The sentence goes back to the peer and into logs."""
    long = "A" * 100_000
    for fields in ({"type": long}, {"type": "task", "status": long}, {"type": "task", "messages": {long: long}}):
        error = _decode(decode, orjson.dumps(fields))
        assert error is not None
        assert len(str(error)) < 300
        assert "AAAA" not in str(error)


def test_the_error_is_of_our_own_family() -> None:
    assert issubclass(ProtocolError, AIPError)
    error = _decode(decode_client, b"{")
    assert error is not None
    assert error.__cause__ is None
