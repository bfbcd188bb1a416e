"""The documents' request/response form: a command as function and arguments, an answer as status and data."""

from typing import Any

import orjson
import pytest
from hypothesis import given

from aip_cluster.protocol import ClientMessageType, Command, ProtocolError, ResultStatus, decode_client
from aip_cluster.protocol.codec import encode_payload_command
from tests.support.wire import json_values


def _answer(payload: Any, **fields: Any) -> bytes:
    return orjson.dumps({"type": "result", "request_id": "r1", "payload": payload} | fields)


def test_a_command_becomes_a_function_with_arguments() -> None:
    command = Command(tool_name="run", parameters={"command": "ls", "cwd": None}, call_id="c")
    assert orjson.loads(encode_payload_command(command, "r1", "2026-01-01T00:00:00+00:00")) == {
        "type": "command",
        "request_id": "r1",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "payload": {"function": "run", "arguments": {"command": "ls", "cwd": None}},
    }


def test_a_command_without_parameters_has_empty_arguments() -> None:
    frame = orjson.loads(encode_payload_command(Command(tool_name="run"), "r1", "t"))
    assert frame["payload"] == {"function": "run", "arguments": {}}


@pytest.mark.parametrize("spelling", ["result", "RESULT", "Result"])
@pytest.mark.parametrize("field", ["type", "message_type"])
def test_an_answer_becomes_command_results_with_one_result(spelling: str, field: str) -> None:
    raw = {field: spelling, "request_id": "r1", "timestamp": "t", "client_id": "d1"}
    message = decode_client(orjson.dumps(raw | {"payload": {"status": "SUCCESS", "data": {"x": None}}}))
    assert message.type is ClientMessageType.COMMAND_RESULTS
    assert (message.request_id, message.prev_response_id) == ("r1", "r1")
    assert (message.timestamp, message.client_id) == ("t", "d1")
    (result,) = message.action_results or []
    assert (result.status, result.result, result.error) == (ResultStatus.SUCCESS, {"x": None}, None)


def test_an_error_becomes_a_failure_with_its_reason() -> None:
    (result,) = decode_client(_answer({"status": "error", "error": "no such file"})).action_results or []
    assert (result.status, result.error) == (ResultStatus.FAILURE, "no such file")


def test_a_reason_that_is_no_text_is_told_as_text() -> None:
    (result,) = decode_client(_answer({"status": "error", "error": {"code": 7}})).action_results or []
    assert result.error == "{'code': 7}"


@given(json_values)
def test_any_data_comes_back_unchanged(value: Any) -> None:
    (result,) = decode_client(_answer({"status": "success", "data": value})).action_results or []
    assert result.result == value


@pytest.mark.parametrize("payload", [None, [], "x", 1])
def test_a_payload_must_be_an_object(payload: Any) -> None:
    with pytest.raises(ProtocolError) as told:
        decode_client(_answer(payload))
    assert told.value.field == "payload"


@pytest.mark.parametrize("status", [None, "", "ok", 1, True, [], {}, ["success"]], ids=repr)
def test_a_status_must_be_one_of_two(status: Any) -> None:
    with pytest.raises(ProtocolError) as told:
        decode_client(_answer({"status": status}))
    assert told.value.field == "payload.status"


@pytest.mark.parametrize("request_id", [None, 1, [], {}])
def test_an_answer_must_say_what_it_answers(request_id: Any) -> None:
    with pytest.raises(ProtocolError) as told:
        decode_client(_answer({"status": "success"}, request_id=request_id))
    assert told.value.field == "request_id"


@pytest.mark.parametrize("field", ["client_id", "timestamp"])
def test_other_fields_of_a_wrong_kind_are_ignored(field: str) -> None:
    message = decode_client(_answer({"status": "success"}, **{field: 5}))
    assert getattr(message, field) is None
