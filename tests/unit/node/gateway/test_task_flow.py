"""A task's way through the node: to the device once and in order, and its end to whoever asked."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from aip_cluster.protocol import Result, ResultStatus, ServerMessage
from node.app import Node
from shared_state.errors import StateUnavailable
from shared_state.sessions import SessionState
from tests.support.asgi import Device, Socket, rest
from tests.support.records import a_registration
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode

COMMANDS = [{"tool_name": "one"}, {"tool_name": "two", "parameters": {"x": None}}]
TASK = {"client_id": "device-1", "request": "do it", "commands": COMMANDS}
OK, FAILED = Result(status=ResultStatus.SUCCESS, result=1), Result(status=ResultStatus.FAILURE, error="no")


async def _dispatch(node: Node, **change: Any) -> str:
    async with rest(node) as api:
        answer = await api.post("/api/dispatch", json=TASK | change)
        assert answer.status_code == 200, answer.text
        session_id: str = answer.json()["session_id"]
        return session_id


async def _end_of(node: Node, session_id: str) -> tuple[SessionState, Any, str | None]:
    async def ended() -> bool:
        found = await node.state.sessions.find(session_id)
        return found is not None and found.ended_ms is not None

    await until(ended, "the session has ended")
    found = await node.state.sessions.find(session_id)
    assert found is not None
    return found.state, found.result, found.error


@contextlib.asynccontextmanager
async def _boss(node: Node, target: str = "device-1") -> AsyncIterator[Socket]:
    """A constellation for one device."""
    async with Socket(node) as socket:
        answer = await socket.ask(
            type="register", client_id=f"boss@{target}", client_type="constellation", target_id=target
        )
        assert answer.status == "ok", answer.error
        yield socket


async def test_a_device_gets_the_task_then_its_commands_then_the_end(node: Node) -> None:
    async with Device(node) as device:
        sid = await _dispatch(node, task_name="job")
        task = await device.receive()
        assert (task.type, task.status, task.session_id) == ("task", "continue", sid)
        assert (task.user_request, task.task_name, task.agent_name) == ("do it", "job", "LinuxAgent")
        command = await device.receive()
        assert (command.type, command.session_id, command.agent_name) == ("command", sid, "LinuxAgent")
        assert [(a.tool_name, a.parameters, a.call_id) for a in command.actions or []] == [
            ("one", None, "call-1-1"),
            ("two", {"x": None}, "call-1-2"),
        ]
        device.answer(command, OK, OK)
        end = await device.receive()
        assert (end.type, end.status, end.session_id) == ("task_end", "completed", sid)
        assert len({task.response_id, command.response_id, end.response_id}) == 3


async def test_tasks_reach_a_device_in_the_order_of_their_dispatch(make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    async with Device(there) as device:
        sent = [await _dispatch(here) for _ in range(20)]
        received: list[str | None] = []
        while len(received) < 20:
            message = await device.receive()
            if message.type == "task":
                received.append(message.session_id)
        assert received == sent

        async def taken() -> bool:
            return await there.state.inbox.read("device-1") == []

        await until(taken, "what was handed over is out of the inbox")


async def test_a_device_that_repeats_the_task_starts_no_second_one(make_node: MakeNode) -> None:
    """As UFO's client does, without the session's id; it gets its commands then, and not before."""
    node = await make_node(echo_wait_s=60.0)
    async with Device(node, features=()) as device:
        sid = await _dispatch(node, task_name="job")
        task = await device.receive()
        device.send(type="task", status="continue", session_id=None, task_name="job", request=task.user_request)
        command, _ = await device.next_commands()
        device.answer(command, OK, OK)
        assert (await device.receive()).type == "task_end"
        device.send(type="task", session_id=None, task_name="job", request="do it")
        assert (await device.ask(type="heartbeat")).type == "heartbeat", "a late echo is not a new task"
        page = await node.state.sessions.page(client_id=None, limit=10)
        assert [s.session_id for _, s in page if s] == [sid]


async def test_a_failed_command_fails_the_task(node: Node) -> None:
    async with Device(node) as device:
        sid = await _dispatch(node)
        command, _ = await device.next_commands()
        device.answer(command, OK, FAILED)
        state, result, error = await _end_of(node, sid)
    assert (state, error) == (SessionState.FAILED, "two: no")
    assert [r["status"] for r in result] == ["success", "failure"]


async def test_results_of_another_device_are_dropped(node: Node) -> None:
    async with Device(node, "device-1") as device, Device(node, "device-2") as thief:
        sid = await _dispatch(node)
        command, _ = await device.next_commands()
        thief.answer(command, FAILED, FAILED)
        thief.send(type="task_end", status="completed", session_id=sid, result="forged")
        assert (await thief.ask(type="heartbeat")).type == "heartbeat"
        device.answer(command, OK, OK)
        assert (await _end_of(node, sid))[0] is SessionState.COMPLETED
    assert node.metrics.registry.get_sample_value("aip_results_dropped_total") == 2


async def test_results_for_no_session_create_none(node: Node) -> None:
    async with Device(node) as device:
        for sid in ("invented", None):
            device.answer(ServerMessage.model_validate({"type": "command", "session_id": sid, "response_id": "r"}), OK)
        assert (await device.ask(type="heartbeat")).type == "heartbeat"
    assert await node.state.sessions.page(client_id=None, limit=10) == []


async def test_a_device_that_goes_cancels_its_tasks(node: Node) -> None:
    async with Device(node) as device:
        sid = await _dispatch(node)
        await device.next_commands()
    state, _, error = await _end_of(node, sid)
    assert (state, error) == (
        SessionState.CANCELLED,
        "Task was cancelled because target device disconnected",
    )


async def test_an_autonomous_device_works_on_its_own(node: Node) -> None:
    async with Device(node, features=("autonomous",)) as device:
        sid = await _dispatch(node, commands=None)
        task = await device.receive()
        device.send(type="command_results", status="continue", session_id=sid, messages=["half way"])
        device.send(type="command_results", status="completed", prev_response_id=task.response_id, result={"n": 1})
        assert (await _end_of(node, sid))[:2] == (SessionState.COMPLETED, {"n": 1})
    events = [e.facts["event"] for e in await node.state.sessions.events(sid)]
    assert events[0] == "created"
    assert events[-1] == "ended"


async def test_it_is_told_who_ran_a_task_that_was_over_at_once(node: Node) -> None:
    """Before anything but its end was stored of it."""
    async with Device(node, features=("autonomous",)) as device:
        sid = await _dispatch(node, commands=None)
        task = await device.receive()
        device.send(type="command_results", status="completed", prev_response_id=task.response_id, result=1)
        await _end_of(node, sid)
    async with rest(node) as api:
        told = (await api.get(f"/api/sessions/{sid}")).json()
    assert told["node_id"] == node.node_id
    assert told["dispatched_ms"] is not None


async def test_the_documents_form_gets_one_command_a_frame(node: Node) -> None:
    async with Socket(node) as device:
        metadata = {"platform": "linux", "aip_format": "payload"}
        assert (await device.ask(type="register", client_id="device-1", metadata=metadata)).status == "ok"
        sid = await _dispatch(node)
        assert (await device.receive()).type == "task"
        first = orjson.loads(await device.receive_raw())
        assert first["payload"] == {"function": "one", "arguments": {}}
        device.send(type="result", request_id=first["request_id"], payload={"status": "success", "data": 7})
        second = orjson.loads(await device.receive_raw())
        assert second["payload"] == {"function": "two", "arguments": {"x": None}}
        device.send(type="result", request_id=second["request_id"], payload={"status": "error", "error": "no"})
        state, result, error = await _end_of(node, sid)
    assert (state, error, result[0]["result"]) == (SessionState.FAILED, "two: no", 7)


async def test_a_constellation_hears_that_its_task_was_taken_and_how_it_ended(make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    async with Device(there) as device, _boss(here) as boss:
        boss.send(
            type="task",
            client_type="constellation",
            target_id="device-1",
            session_id="boss@task_3",
            task_name="galaxy/run1/step2",
            request="do it",
            metadata={"commands": COMMANDS},
        )
        taken = await boss.receive()
        assert (taken.type, taken.status, taken.session_id) == ("heartbeat", "ok", "boss@task_3")
        command, _ = await device.next_commands()
        device.answer(command, OK, OK)
        end = await boss.receive()
        assert (end.type, end.status, end.session_id) == ("task_end", "completed", "boss@task_3")
        assert end.task_name == "galaxy/run1/step2"
        assert [r["result"] for r in end.result] == [1, 1]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"request": "  "}, "request: Empty task content"),
        ({"request": None}, "request: Empty task content"),
        ({"request": "x" * 65_537}, "request: has 65537 bytes, at most 65536 are allowed (max_request_bytes)"),
        (
            {"metadata": {"a": "x" * 65_536}},
            "metadata: has 65544 bytes, at most 65536 are allowed (max_metadata_bytes)",
        ),
        ({"session_id": "a{b}"}, "session_id: "),
        ({"task_name": "../x"}, "task_name: "),
        ({"target_id": "device-2"}, "target_id: "),
        ({"metadata": {"planner": "magic"}}, "metadata.planner: "),
        ({"metadata": {"planner": []}}, "metadata.planner: "),
        ({"metadata": {"planner": {}}}, "metadata.planner: "),
        ({"metadata": {"planner": 5}}, "metadata.planner: "),
        ({"metadata": {"timeout_s": "x"}}, "metadata.timeout_s: "),
        ({"metadata": {"timeout_s": True}}, "metadata.timeout_s: "),
        ({"metadata": {"timeout_s": 0}}, "metadata.timeout_s: "),
        ({"metadata": {"timeout_s": 1e9}}, "metadata.timeout_s: "),
        ({"metadata": {"commands": {}}}, "metadata.commands: "),
        ({"metadata": {"commands": [{}]}}, "metadata.commands.0.tool_name: "),
        ({"metadata": {"commands": COMMANDS * 200}}, "metadata.commands: "),
    ],
    ids=lambda v: str(v)[:50],
)
async def test_a_wrong_field_of_a_task_is_named(node: Node, change: dict[str, Any], field: str) -> None:
    async with Device(node), _boss(node) as boss:
        answer = await boss.ask(
            **({"type": "task", "client_type": "constellation", "session_id": "s1", "request": "do it"} | change)
        )
        assert (answer.type, answer.status) == ("error", "error")
        assert str(answer.error).startswith(field)
        assert (await boss.ask(type="heartbeat")).type == "heartbeat"


async def test_a_message_that_cannot_be_read_keeps_nobody_out(node: Node) -> None:
    """A node of another version may have left it: it is dropped, and what is behind it arrives."""
    await node.state.clients.register(a_registration("device-1", "dead"))
    await node.state.inbox.post("device-1", b"task\nnot JSON")
    await node.state.inbox.post("device-1", b'task\n{"session_id":"half an order"}')
    await node.state.inbox.post("device-1", b"of no kind")
    await node.state.inbox.post("device-1", b"task\n5")
    await node.state.inbox.post("device-1", b"task\n[]")
    await node.state.inbox.post("device-1", b"file\n\xff")
    await node.state.inbox.post("device-1", b'frame\n{"type":"heartbeat","session_id":"behind it"}')
    async with Device(node, "device-1") as device:
        assert (await device.receive()).session_id == "behind it"

        async def taken() -> bool:
            return await node.state.inbox.read("device-1") == []

        await until(taken, "nothing is left in the inbox")


async def test_a_task_for_a_device_of_a_node_that_died_waits_for_its_return(node: Node) -> None:
    """Its registration stands until somebody settles the dead node; the device may be back any moment."""
    await node.state.clients.register(a_registration("device-1", "dead"))
    async with rest(node) as api:
        answer = await api.post("/api/dispatch", json=TASK | {"task_name": "job"})
        assert answer.status_code == 200
        async with Device(node, "device-1") as device:
            assert (await device.receive()).task_name == "job"


async def test_an_end_that_cannot_be_read_while_redis_is_away_is_no_failure(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its session is not under way here; the device may have had it over an earlier connection."""

    async def find(_: str) -> None:
        raise StateUnavailable("Redis cannot be reached")

    async with Device(node) as device:
        monkeypatch.setattr(node.state.sessions, "find", find)
        connection = node.gateway.hub.get("device-1")
        await node.sessions.runner.on_ended_elsewhere("gone", connection)
        assert (await device.ask(type="heartbeat")).type == "heartbeat"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
