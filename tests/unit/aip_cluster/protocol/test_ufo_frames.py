"""Frames as UFO's own clients write them: every field in its order, nulls and defaults included."""

from typing import Any

import orjson
import pytest

from aip_cluster.protocol import ClientMessage, ClientMessageType, ClientType, ResultStatus, TaskStatus, decode_client

# The order in which UFO's ClientMessage declares its fields, which is the order on the wire.
ORDER = [
    *("type", "status", "client_type", "session_id", "task_name", "client_id", "target_id", "request"),
    *("action_results", "timestamp", "request_id", "prev_response_id", "error", "metadata"),
]
NOW = "2026-01-02T03:04:05.678901+00:00"

REGISTER_DEVICE = (
    '{"type":"register","status":"ok","client_type":"device","session_id":null,"task_name":null,'
    '"client_id":"linux_agent_1","target_id":null,"request":null,"action_results":null,'
    '"timestamp":"2026-01-02T03:04:05.678901+00:00","request_id":null,"prev_response_id":null,"error":null,'
    '"metadata":{"system_info":{"device_id":"linux_agent_1","platform":"linux","os_version":"6.8.0","cpu_count":8,'
    '"memory_total_gb":15.52,"hostname":"box","ip_address":"10.0.0.5","supported_features":["cli","file_system"],'
    '"platform_type":"computer","schema_version":"1.0","custom_metadata":{"tags":null}},"platform":"linux",'
    '"registration_time":"2026-01-02T03:04:05.678901+00:00"}}'
)
REGISTER_CONSTELLATION = (
    '{"type":"register","status":"ok","client_type":"constellation","session_id":null,"task_name":null,'
    '"client_id":"galaxy@linux_agent_1","target_id":"linux_agent_1","request":null,"action_results":null,'
    '"timestamp":"2026-01-02T03:04:05.678901+00:00","request_id":null,"prev_response_id":null,"error":null,'
    '"metadata":{"type":"constellation_client","targeted_device_id":"linux_agent_1",'
    '"registration_time":"2026-01-02T03:04:05.678901+00:00"}}'
)
HEARTBEAT = (
    '{"type":"heartbeat","status":"ok","client_type":"device","session_id":null,"task_name":null,'
    '"client_id":"galaxy@linux_agent_1","target_id":null,"request":null,"action_results":null,'
    '"timestamp":"2026-01-02T03:04:05.678901+00:00","request_id":null,"prev_response_id":null,"error":null,'
    '"metadata":null}'
)
TASK_OF_CONSTELLATION = (
    '{"type":"task","status":"continue","client_type":"constellation","session_id":"galaxy@task_3",'
    '"task_name":"galaxy/run1/step2","client_id":"galaxy@linux_agent_1","target_id":"linux_agent_1",'
    '"request":"Zeige die Größe von /tmp","action_results":null,"timestamp":"2026-01-02T03:04:05.678901+00:00",'
    '"request_id":"0d2f3b0e-5f39-4d8e-9a37-3a56d0d7f5b1","prev_response_id":null,"error":null,"metadata":null}'
)
ECHO_OF_DEVICE = (
    '{"type":"task","status":"continue","client_type":"device","session_id":null,"task_name":"job-1",'
    '"client_id":"linux_agent_1","target_id":null,"request":"list files","action_results":null,'
    '"timestamp":"2026-01-02T03:04:05.678901+00:00","request_id":"0d2f3b0e-5f39-4d8e-9a37-3a56d0d7f5b1",'
    '"prev_response_id":null,"error":null,"metadata":{"platform":"linux"}}'
)
COMMAND_RESULTS = (
    '{"type":"command_results","status":"continue","client_type":"device","session_id":"s1","task_name":null,'
    '"client_id":"linux_agent_1","target_id":null,"request":null,"action_results":['
    '{"status":"success","error":null,"result":{"stdout":"a\\nb","exit_code":0,"extra":null},'
    '"namespace":"BashExecutor","call_id":"call-1-1"},'
    '{"status":"failure","error":"no such file","result":null,"namespace":null,"call_id":"call-1-2"},'
    '{"status":"skipped","error":"Skipped due to previous failure","result":null,"namespace":null,"call_id":null},'
    '{"status":"none","error":null,"result":[],"namespace":null,"call_id":null}],'
    '"timestamp":"2026-01-02T03:04:05.678901+00:00","request_id":"q1","prev_response_id":"r1","error":null,'
    '"metadata":null}'
)
TASK_END = (
    '{"type":"task_end","status":"failed","client_type":"device","session_id":"s1","task_name":null,'
    '"client_id":"linux_agent_1","target_id":null,"request":null,"action_results":null,'
    '"timestamp":"2026-01-02T03:04:05.678901+00:00","request_id":null,"prev_response_id":null,'
    '"error":"it broke","metadata":null}'
)
DEVICE_INFO_REQUEST = (
    '{"type":"device_info_request","status":"ok","client_type":"constellation","session_id":null,"task_name":null,'
    '"client_id":"galaxy@linux_agent_1","target_id":"linux_agent_1","request":null,"action_results":null,'
    '"timestamp":"2026-01-02T03:04:05.678901+00:00","request_id":"device_info_1","prev_response_id":null,'
    '"error":null,"metadata":null}'
)
ERROR = (
    '{"type":"error","status":"error","client_type":"device","session_id":"s1","task_name":null,'
    '"client_id":"linux_agent_1","target_id":null,"request":null,"action_results":null,'
    '"timestamp":"2026-01-02T03:04:05.678901+00:00","request_id":null,"prev_response_id":null,'
    '"error":"cannot start the tool server","metadata":null}'
)
FRAMES = {
    "register a device": REGISTER_DEVICE,
    "register a constellation": REGISTER_CONSTELLATION,
    "heartbeat": HEARTBEAT,
    "task of a constellation": TASK_OF_CONSTELLATION,
    "echo of a device": ECHO_OF_DEVICE,
    "command results": COMMAND_RESULTS,
    "task end": TASK_END,
    "device info request": DEVICE_INFO_REQUEST,
    "error": ERROR,
}


def _decode(name: str) -> ClientMessage:
    return decode_client(FRAMES[name])


@pytest.mark.parametrize("name", FRAMES)
def test_every_field_of_the_frame_is_in_the_message(name: str) -> None:
    fields: dict[str, Any] = orjson.loads(FRAMES[name])
    assert list(fields) == ORDER, "the frame is as UFO writes it"
    message = _decode(name)
    assert message.model_dump(mode="json", include=set(ORDER)) == fields
    assert decode_client(FRAMES[name].encode()) == message


def test_a_device_registers() -> None:
    message = _decode("register a device")
    assert message.type is ClientMessageType.REGISTER
    assert message.client_type is ClientType.DEVICE
    assert message.metadata is not None
    assert message.metadata["system_info"]["supported_features"] == ["cli", "file_system"]


def test_a_constellation_registers_for_its_device() -> None:
    message = _decode("register a constellation")
    assert message.client_type is ClientType.CONSTELLATION
    assert (message.client_id, message.target_id) == ("galaxy@linux_agent_1", "linux_agent_1")


def test_the_echo_of_a_task_has_no_session() -> None:
    message = _decode("echo of a device")
    assert message.session_id is None
    assert (message.task_name, message.request) == ("job-1", "list files")


def test_results_keep_their_order_and_their_nulls() -> None:
    results = _decode("command results").action_results
    assert results is not None
    assert [r.status for r in results] == list(ResultStatus)
    assert results[0].result == {"stdout": "a\nb", "exit_code": 0, "extra": None}


def test_a_status_says_how_it_went() -> None:
    assert _decode("task end").status is TaskStatus.FAILED
    assert _decode("error").status is TaskStatus.ERROR
