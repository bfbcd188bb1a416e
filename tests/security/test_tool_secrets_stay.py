"""Secrets between operator and device: whatever the device says, they come back into nothing that anybody reads."""

import logging
from typing import Any

import orjson
import pytest

from aip_cluster.protocol import ServerMessage
from node.app import Node
from shared_state.sessions import SessionState
from tests.support.asgi import Device, Socket, rest
from tests.support.features import OURS
from tests.support.tasks import next_of, state_is
from tests.unit.node.conftest import MakeNode, make_node  # noqa: F401 - a fixture

KEY = "k3y-of-the-device"
SECRETS = {"run": {"api_key": KEY}}
SID = "boss@1"


async def _stored(node: Node) -> str:
    """All that is in Redis, keys and values, as text."""
    redis = node.state.connection
    found: list[str] = []
    reads: dict[bytes, tuple[str, list[str | int]]] = {
        b"string": ("GET", []),
        b"hash": ("HGETALL", []),
        b"list": ("LRANGE", [0, -1]),
        b"zset": ("ZRANGE", [0, -1]),
        b"stream": ("XRANGE", ["-", "+"]),
    }
    for key in await redis.command("KEYS", "*"):
        name, rest_of_it = reads[await redis.command("TYPE", key)]
        found.append(f"{key} {await redis.command(name, key, *rest_of_it)}")
    return "\n".join(found)


def _leaks(command: ServerMessage) -> list[dict[str, Any]]:
    """One frame of every type that a device may send, with the key in every field that takes text."""
    result = {
        "status": "success",
        "result": {KEY: [KEY, {"nested": KEY}]},
        "error": f"failed with {KEY}",
        "namespace": KEY,
        "call_id": KEY,
    }
    about = {"session_id": SID, "timestamp": KEY, "request_id": KEY, "task_name": KEY, "request": KEY}
    more = {"error": KEY, "messages": [KEY], "result": KEY, "metadata": {KEY: KEY}}
    return [
        {"type": "device_info_response", **about, **more},
        {"type": "error", "error": KEY, "metadata": {"x": KEY}},
        {"type": "file_transfer_start", "filename": f"{KEY}.txt", "size": 1, "total_chunks": 1, "session_id": SID},
        {"type": "command_results", "prev_response_id": "unknown", "action_results": [result], **about, **more},
        {
            "type": "command_results",
            "status": "continue",
            "prev_response_id": command.response_id,
            "action_results": [result],
            **about,
            **more,
        },
    ]


@pytest.mark.parametrize("ends_by", ["results", "task_end", "error"])
async def test_what_a_device_says_of_them_is_in_no_place_that_anybody_reads(
    make_node: MakeNode,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
    ends_by: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    node = await make_node(tool_secrets=SECRETS)
    said: dict[str, Any] = {"note": KEY, KEY: KEY}
    async with Device(node, features=OURS, **said) as device, Socket(node) as boss:
        await boss.ask(type="register", client_id="boss@device-1", client_type="constellation", target_id="device-1")
        metadata = {"commands": [{"tool_name": "run"}], "progress": True}
        boss.send(type="task", session_id=SID, task_name="t", request="x", metadata=metadata)
        command, actions = await device.next_commands()
        assert actions[0].parameters == {"api_key": KEY}, "the device gets it"
        leaks = _leaks(command)
        if ends_by != "results":
            del leaks[-1]
        for frame in leaks:
            device.send(**frame)
        if ends_by != "results":
            device.send(type=ends_by, status="failed", session_id=SID, result={KEY: KEY}, error=f"it is {KEY}")
        end = await next_of(boss, "task_end")
        await state_is(node, SID, SessionState.COMPLETED if ends_by == "results" else SessionState.FAILED)
        boss.send(type="device_info_request", request_id="r")
        told = [end, await next_of(boss, "device_info_response")]
        async with rest(node) as api:
            paths = (f"/api/sessions/{SID}", "/api/sessions", "/api/clients?detail=1", "/api/aip_cluster/device-1")
            read = [(await api.get(path)).text for path in (*paths, "/api/task_result/t")]
    heard = "".join([*boss._heard, *(orjson.dumps(m.model_dump(mode="json")).decode() for m in told)])
    logged = caplog.text + "".join(str(vars(record)) for record in caplog.records if record.name.startswith("node"))
    assert "[redacted]" in heard
    places = {"Redis": await _stored(node), "REST": "".join(read), "the requester": heard, "logs": logged}
    assert {place for place, text in places.items() if KEY in text} == set()
