"""A constellation that asks for something else under a session id that is in use: the old request gives way.

UFO's orchestrator names its sessions by its own tasks, and uses a name again once it has given a task up.
"""

import asyncio
from typing import Any

import pytest

from aip_cluster.protocol import Result, ResultStatus, ServerMessage
from node.app import Node
from node.sessions.service import SUPERSEDED
from shared_state.errors import Fenced
from shared_state.sessions import Ending, SessionState
from tests.support.asgi import Device, Socket
from tests.support.features import OURS, RESUMING
from tests.support.tasks import next_of, state_is
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode

SID = "boss@task_1"
S = SessionState


def _result(value: Any) -> Result:
    return Result(status=ResultStatus.SUCCESS, result=value)


class Boss(Socket):
    """A constellation for `device-1`."""

    async def __aenter__(self) -> "Boss":
        await super().__aenter__()
        answer = await self.ask(
            type="register", client_id="boss@device-1", client_type="constellation", target_id="device-1"
        )
        assert answer.status == "ok", answer.error
        return self

    async def task(self, request: str, tool: str = "one", **fields: Any) -> None:
        """Ask for a task under the one id; returns once it is acknowledged."""
        metadata = {"commands": [{"tool_name": tool}], **fields.pop("metadata", {})}
        self.send(type="task", session_id=SID, task_name="galaxy/t1", request=request, metadata=metadata, **fields)
        answer = await self.receive()
        assert (answer.type, answer.session_id) == ("heartbeat", SID), answer.error

    async def end(self) -> ServerMessage:
        """The next end that it is told of."""
        return await next_of(self, "task_end")


@pytest.fixture(params=["one node", "two nodes"])
async def nodes(request: pytest.FixtureRequest, make_node: MakeNode) -> tuple[Node, Node]:
    """The node of the constellation, and that of the device."""
    here = await make_node()
    return here, here if request.param == "one node" else await make_node()


async def test_another_request_under_the_same_id_gets_its_own_result(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    async with Device(there, features=OURS) as device, Boss(here) as boss:
        await boss.task("the old request")
        old, _ = await device.next_commands()
        await boss.task("the new request", tool="two")
        stopped = await device.receive()
        assert (stopped.type, stopped.session_id, stopped.error) == ("task_end", SID, SUPERSEDED)
        task = await device.receive()
        assert (task.type, task.user_request) == ("task", "the new request"), "the old one has ended before"
        new, actions = await device.next_commands()
        assert [a.tool_name for a in actions] == ["two"]
        device.answer(old, _result("old"))
        device.answer(new, _result("new"))
        end = await boss.end()
        assert (end.session_id, end.status, [r["result"] for r in end.result]) == (SID, "completed", ["new"])
        assert (await boss.ask(type="heartbeat")).type == "heartbeat"
        assert boss.count("task_end") == 1, "the end of the old request is not told under the id of the new one"
    found = await here.state.sessions.find(SID)
    assert found is not None
    assert (found.state, found.request) == (S.COMPLETED, "the new request")
    events = [e.facts["event"] for e in await here.state.sessions.events(SID)]
    assert events == ["created", "dispatched", "commands", "results", "ended"]


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"timeout_s": 5}},
        {"metadata": {"note": "x"}},
        {"tool": "two"},
        {"task_name": "galaxy/t2"},
    ],
    ids=["timeout", "metadata", "commands", "task name"],
)
async def test_any_difference_is_another_request(node: Node, change: dict[str, Any]) -> None:
    async with Device(node, features=OURS) as device, Boss(node) as boss:
        await boss.task("the request")
        await device.next_commands()
        if "task_name" in change:
            metadata = {"commands": [{"tool_name": "one"}]}
            boss.send(type="task", session_id=SID, request="the request", metadata=metadata, **change)
            assert (await boss.receive()).type == "heartbeat"
        else:
            await boss.task("the request", **change)
        assert (await next_of(device, "task_end")).error == SUPERSEDED
        command, _ = await device.next_commands()
        device.answer(command, _result(1))
        assert (await boss.end()).status == "completed"


@pytest.mark.parametrize("metadata", [{}, {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}])
async def test_the_same_request_once_more_is_a_repetition(node: Node, metadata: dict[str, Any]) -> None:
    async with Device(node, features=OURS) as device, Boss(node) as boss:
        await boss.task("the request")
        command, _ = await device.next_commands()
        await boss.task("the request", metadata=metadata)
        device.answer(command, _result("once"))
        end = await boss.end()
        assert [r["result"] for r in end.result] == ["once"]
        assert (await boss.ask(type="heartbeat")).type == "heartbeat"
        assert (boss.count("task_end"), device.count("command")) == (1, 1)


async def test_many_requests_one_after_the_other_each_replace_the_one_before(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    async with Device(there, features=OURS) as device, Boss(here) as boss:
        for number in range(10):
            await boss.task(f"request {number}")
        while True:
            task = await next_of(device, "task")
            if task.user_request == "request 9":
                break
        command, _ = await device.next_commands()
        device.answer(command, _result("last"))
        end = await boss.end()
        assert [r["result"] for r in end.result] == ["last"]
        assert (await boss.ask(type="heartbeat")).type == "heartbeat"
        assert boss.count("task_end") == 1


async def test_a_device_that_was_away_is_told_to_stop_the_old_request_before_it_gets_the_new_one(
    make_node: MakeNode,
) -> None:
    here, there = await make_node(), await make_node()
    device = await Device(there, features=RESUMING).__aenter__()
    async with Boss(here) as boss:
        await boss.task("the old request")
        await device.next_commands()
        await device.cut()
        await state_is(here, SID, S.SUSPENDED)
        await boss.task("the new request", tool="two")
        async with Device(here, features=RESUMING, token=device.token) as back:
            assert (await back.receive()).type == "task_end"
            assert (await back.receive()).user_request == "the new request"
            command, actions = await back.next_commands()
            assert [a.tool_name for a in actions] == ["two"]
            back.answer(command, _result("new"))
            assert [r["result"] for r in (await boss.end()).result] == ["new"]
            assert back.count("command") == 1


async def test_an_end_of_the_old_request_that_comes_late_is_not_told_as_that_of_the_new_one(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device ends the old request in the moment in which the new one is asked for."""
    held, genuine = asyncio.Event(), node.state.inbox.post

    async def post(client_id: str, message: bytes, **options: Any) -> Any:
        if message.startswith(b"end\n") and not held.is_set():
            await held.wait()
        return await genuine(client_id, message, **options)

    monkeypatch.setattr(node.state.inbox, "post", post)
    async with Device(node, features=OURS) as device, Boss(node) as boss:
        await boss.task("the old request")
        command, _ = await device.next_commands()
        device.answer(command, _result("old"))
        await state_is(node, SID, S.COMPLETED)
        await boss.task("the new request")
        new, _ = await device.next_commands()
        held.set()

        async def told() -> bool:
            return not await node.state.inbox.read("boss@device-1")

        await until(told, "the late end was handed over")
        device.answer(new, _result("new"))
        end = await boss.end()
        assert [r["result"] for r in end.result] == ["new"]


async def test_a_late_step_of_the_old_request_changes_nothing_of_the_new_one(node: Node) -> None:
    async with Device(node, features=OURS) as device, Boss(node) as boss:
        await boss.task("the old request")
        await device.next_commands()
        old = await node.state.sessions.find(SID)
        await boss.task("the new request")
        await device.next_commands()
        assert old is not None
        with pytest.raises(Fenced):
            await node.state.sessions.advance(SID, S.RUNNING, event={"event": "late"}, created_ms=old.created_ms)
        with pytest.raises(Fenced):
            await node.state.sessions.end(Ending(SID, S.FAILED, error="late", created_ms=old.created_ms))
        found = await node.state.sessions.find(SID)
        assert found is not None
        assert found.state is S.RUNNING


async def test_another_request_under_an_id_that_the_node_gave_gets_its_own_result(node: Node) -> None:
    async with Device(node, features=OURS) as device, Boss(node) as boss:
        boss.send(type="task", request="the old request", metadata={"commands": [{"tool_name": "one"}]})
        sid = (await boss.receive()).session_id
        old, _ = await device.next_commands()
        boss.send(type="task", session_id=sid, request="the new request", metadata={"commands": [{"tool_name": "two"}]})
        assert (await boss.receive()).type == "heartbeat"
        new, actions = await device.next_commands()
        assert [a.tool_name for a in actions] == ["two"]
        device.answer(old, _result("old"))
        device.answer(new, _result("new"))
        assert [r["result"] for r in (await boss.end()).result] == ["new"]


@pytest.mark.parametrize("ended", [False, True])
async def test_the_same_request_id_does_not_make_another_request_a_repetition(node: Node, *, ended: bool) -> None:
    async with Device(node, features=OURS) as device, Boss(node) as boss:
        await boss.task("the old request", request_id="r1")
        old, _ = await device.next_commands()
        if ended:
            device.answer(old, _result("old"))
            await boss.end()
        await boss.task("the new request", tool="two", request_id="r1")
        new, _ = await device.next_commands()
        device.answer(new, _result("new"))
        assert [r["result"] for r in (await boss.end()).result] == ["new"]


async def test_the_id_stays_with_the_client_that_used_it_first(node: Node) -> None:
    async with Device(node, features=OURS) as device, Boss(node) as boss, Socket(node) as thief:
        await boss.task("the request")
        await device.next_commands()
        await thief.ask(type="register", client_id="thief@device-1", client_type="constellation", target_id="device-1")
        thief.send(type="task", session_id=SID, task_name="galaxy/t1", request="another")
        refused = await thief.receive()
        assert refused.type == "error"
        assert "in use" in (refused.error or "")
        # UFO's orchestrator waits for an end, and only logs errors.
        end = await thief.receive()
        assert (end.type, end.status, end.result) == ("task_end", "failed", None)
        assert device.count("task_end") == 0


async def test_files_of_the_old_request_are_not_those_of_the_new_one(node: Node) -> None:
    async with Device(node, features=OURS) as device, Boss(node) as boss:
        await boss.task("the old request")
        await device.next_commands()
        key = node.state.keys.session_files(SID)
        await node.state.connection.command("HSET", key, "old.txt", b"{}")
        await node.state.connection.command("PEXPIRE", key, 60_000)
        await boss.task("the new request")
        await device.next_commands()
        assert await node.state.connection.command("EXISTS", key) == 0
