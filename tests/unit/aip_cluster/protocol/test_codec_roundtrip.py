"""What is encoded is decoded equal, whatever JSON can carry."""

from typing import Any

import orjson
import pytest
from hypothesis import given

from aip_cluster.protocol import (
    ClientMessage,
    ClientMessageType,
    Command,
    ProtocolError,
    Result,
    ResultStatus,
    ServerMessage,
    ServerMessageType,
    decode_client,
    decode_server,
    encode,
)
from aip_cluster.protocol.codec import loads
from aip_cluster.protocol.structure import MAX_DEPTH
from tests.support.wire import client_messages, json_values, server_messages


@given(client_messages)
def test_client_messages_survive_the_wire(message: ClientMessage) -> None:
    frame = encode(message)
    assert decode_client(frame) == message
    assert decode_client(frame.decode()) == message


@given(server_messages)
def test_server_messages_survive_the_wire(message: ServerMessage) -> None:
    frame = encode(message)
    assert decode_server(frame) == message
    assert decode_server(frame.decode()) == message


@given(json_values)
def test_any_json_value_travels_as_a_result_unchanged(value: Any) -> None:
    """Null inside a value is data; only null fields of ours are left out."""
    message = ServerMessage(type=ServerMessageType.TASK_END, result={"value": value, "null": None})
    assert decode_server(encode(message)).result == {"value": value, "null": None}


@given(json_values)
def test_any_json_value_travels_as_metadata_and_parameters_unchanged(value: Any) -> None:
    asked = ClientMessage(type=ClientMessageType.REGISTER, metadata={"value": value, "null": None})
    assert decode_client(encode(asked)).metadata == {"value": value, "null": None}
    command = Command(tool_name="t", parameters={"value": value, "null": None})
    sent = ServerMessage(type=ServerMessageType.COMMAND, actions=[command])
    assert decode_server(encode(sent)).actions == [command]


@given(client_messages)
def test_a_frame_is_one_flat_object_without_null_fields(message: ClientMessage) -> None:
    fields = orjson.loads(encode(message))
    assert isinstance(fields, dict)
    assert None not in fields.values()
    assert set(fields) <= set(ClientMessage.model_fields)


def test_a_client_message_reads_as_the_clients_in_the_field_expect() -> None:
    message = ServerMessage(
        type=ServerMessageType.COMMAND,
        session_id="s",
        response_id="r",
        actions=[Command(tool_name="list_tools", parameters={"tool_type": "action"}, call_id="c")],
    )
    assert orjson.loads(encode(message)) == {
        "type": "command",
        "status": "ok",
        "session_id": "s",
        "response_id": "r",
        "actions": [
            {"tool_name": "list_tools", "parameters": {"tool_type": "action"}, "tool_type": "action", "call_id": "c"}
        ],
    }


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, b"bytes", 2**64, -(2**63) - 1, {1: "number as a key"}, "\ud800", 1j],
    ids=["object", "set", "bytes", "too large", "too small", "number as a key", "surrogate", "complex"],
)
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    result = Result(status=ResultStatus.SUCCESS, result=value)
    for message in (
        ServerMessage(type=ServerMessageType.TASK_END, result=value),
        ClientMessage(type=ClientMessageType.COMMAND_RESULTS, action_results=[result]),
        ClientMessage(type=ClientMessageType.REGISTER, metadata={"x": value}),
    ):
        with pytest.raises(ProtocolError, match="cannot be written as JSON"):
            encode(message)


def test_a_value_that_holds_itself_is_refused() -> None:
    ring: list[object] = []
    ring.append(ring)
    with pytest.raises(ProtocolError):
        encode(ServerMessage(type=ServerMessageType.TASK_END, result=ring))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_what_is_nested_as_deep_as_allowed_can_be_passed_on(opening: str) -> None:
    """One level is the frame's own; what comes in must be able to go out again in another message."""
    inner = MAX_DEPTH - 1
    value = opening * inner + "1" + {"[": "]", '{"a":': "}"}[opening] * inner
    frame = f'{{"type":"task_end","result":{value}}}'
    message = decode_client(frame)
    passed_on = encode(ServerMessage(type=ServerMessageType.TASK_END, result=message.result))
    assert decode_server(passed_on).result == message.result
    with pytest.raises(ProtocolError, match="deeper than 200"):
        decode_client(f'{{"type":"task_end","result":[{value}]}}')


def test_many_brackets_without_depth_are_fine() -> None:
    assert len(loads(b"[" + b",".join([b"{}"] * 10_000) + b"]")) == 10_000
    assert loads('"' + "[" * 1_000 + '"') == "[" * 1_000
