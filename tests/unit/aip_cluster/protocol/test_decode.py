"""Every spelling that clients use, and errors that name the field at fault."""

from typing import Any

import orjson
import pytest

from aip_cluster.protocol import (
    ClientMessageType,
    ClientType,
    ProtocolError,
    ResultStatus,
    ServerMessageType,
    TaskStatus,
    decode_client,
    decode_server,
)


def _frame(**fields: Any) -> bytes:
    return orjson.dumps(fields)


@pytest.mark.parametrize("kind", ClientMessageType)
@pytest.mark.parametrize("field", ["type", "message_type"])
@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
def test_every_client_type_in_every_spelling(kind: ClientMessageType, field: str, case: Any) -> None:
    assert decode_client(_frame(**{field: case(kind.value)})).type is kind


@pytest.mark.parametrize("kind", ServerMessageType)
@pytest.mark.parametrize("field", ["type", "message_type"])
def test_every_server_type_in_every_spelling(kind: ServerMessageType, field: str) -> None:
    assert decode_server(_frame(**{field: kind.value})).type is kind
    assert decode_server(_frame(**{field: kind.value.upper()})).type is kind


def test_upper_case_values_are_accepted_everywhere() -> None:
    message = decode_client(
        _frame(
            message_type="COMMAND_RESULTS",
            status="COMPLETED",
            client_type="CONSTELLATION",
            action_results=[{"status": "FAILURE"}, {"status": "Skipped"}],
        )
    )
    assert (message.status, message.client_type) == (TaskStatus.COMPLETED, ClientType.CONSTELLATION)
    assert [r.status for r in message.action_results or []] == [ResultStatus.FAILURE, ResultStatus.SKIPPED]
    sent = decode_server(_frame(type="COMMAND", actions=[{"tool_name": "T", "tool_type": "DATA_COLLECTION"}]))
    assert sent.actions is not None
    assert (sent.actions[0].tool_type, sent.actions[0].tool_name) == ("data_collection", "T")


def test_absent_fields_have_their_defaults() -> None:
    message = decode_client(_frame(type="heartbeat"))
    assert (message.status, message.client_type) == (TaskStatus.OK, ClientType.DEVICE)
    assert "client_type" not in message.model_fields_set


@pytest.mark.parametrize("field", ["status", "client_type", "client_id", "metadata", "action_results", "result"])
def test_null_is_the_same_as_absent(field: str) -> None:
    message = decode_client(_frame(type="heartbeat", **{field: None}))
    assert message == decode_client(_frame(type="heartbeat"))


def test_a_null_type_beside_its_alias_is_the_same_as_absent() -> None:
    assert decode_client(_frame(type=None, message_type="REGISTER")).type is ClientMessageType.REGISTER
    assert decode_server(_frame(type=None, message_type="TASK")).type is ServerMessageType.TASK


def test_a_null_tool_type_is_the_same_as_absent() -> None:
    actions = decode_server(_frame(type="command", actions=[{"tool_name": "t", "tool_type": None}])).actions
    assert actions is not None
    assert actions[0].tool_type == "action"


def test_type_wins_over_its_alias() -> None:
    assert decode_client(_frame(type="task", message_type="register")).type is ClientMessageType.TASK


def test_unknown_fields_are_ignored() -> None:
    message = decode_client(_frame(type="heartbeat", version="9.9", payload={"x": 1}))
    assert message == decode_client(_frame(type="heartbeat"))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "type"),
        ({"type": None}, "type"),
        ({"type": 1}, "type"),
        ({"type": "shutdown"}, "type"),
        ({"message_type": "shutdown"}, "type"),
        ({"type": "task", "status": "great"}, "status"),
        ({"type": "task", "status": 1}, "status"),
        ({"type": "register", "client_type": "admin"}, "client_type"),
        ({"type": "register", "client_id": 7}, "client_id"),
        ({"type": "register", "client_id": ["x"]}, "client_id"),
        ({"type": "register", "metadata": []}, "metadata"),
        ({"type": "register", "metadata": "x"}, "metadata"),
        ({"type": "command_results", "action_results": {}}, "action_results"),
        ({"type": "command_results", "action_results": [{}]}, "action_results[0].status"),
        ({"type": "command_results", "action_results": [{"status": "success"}, 5]}, "action_results[1]"),
        (
            {"type": "command_results", "action_results": [{"status": "success", "error": 1}]},
            "action_results[0].error",
        ),
        ({"type": "task", "messages": ["x", 1]}, "messages[1]"),
    ],
    ids=repr,
)
def test_an_error_names_the_field_at_fault(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ProtocolError) as told:
        decode_client(orjson.dumps(fields))
    # The alias may be named instead of the field that it stands for.
    assert told.value.field in {field, "message_type" if field == "type" else field}
    assert str(told.value).startswith(f"{told.value.field}: ")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"null", b"1"])
def test_an_error_of_the_whole_frame_names_no_field(raw: bytes) -> None:
    with pytest.raises(ProtocolError) as told:
        decode_client(raw)
    assert told.value.field is None
    assert str(told.value).startswith("the frame ")


def test_numbers_and_booleans_are_not_taken_for_text() -> None:
    for value in (1, 1.5, True):
        with pytest.raises(ProtocolError, match="request"):
            decode_client(_frame(type="task", request=value))
