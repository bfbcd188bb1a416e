"""Commands that UFO's client would take and never answer: its device logs an error, and the session would hang.

What a device cannot resolve is refused before anything is sent; what it does not answer has a time of its own.
"""

from typing import Any

import orjson
import pytest

from aip_cluster.protocol import Result, ResultStatus, ServerMessage
from node.app import Node
from shared_state.sessions import SessionState
from tests.support.asgi import Device, rest
from tests.support.features import OURS
from tests.support.llm_devices import listed
from tests.support.tasks import dispatch, next_of, state_is
from tests.unit.node.conftest import MakeNode

S = SessionState
OK = Result(status=ResultStatus.SUCCESS, result=1)
TOOLS = [listed("execute_command", "BashExecutor"), listed("get_system_info", "BashExecutor")]


class Ufo(Device):
    """As UFO's Linux device: answers for its one type of tools, and to nothing else."""

    def __init__(self, node: Node, client_id: str = "device-1", **metadata: Any) -> None:
        super().__init__(node, client_id, features=(), **metadata)
        self.lists_tools = True
        self.tools: list[Any] = list(TOOLS)
        self.asked: list[str] = []

    async def receive(self) -> ServerMessage:
        while True:
            message = await super().receive()
            if [c.tool_name for c in message.actions or ()] != ["list_tools"]:
                return message
            command = (message.actions or [])[0]
            self.asked.append(command.tool_type)
            if command.tool_type == "action":
                self.answer(message, Result(status=ResultStatus.SUCCESS, result=self.tools))


def commands(*names: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"tool_name": name, **fields} for name in names]


async def error_of(node: Node, session_id: str) -> str:
    found = await node.state.sessions.find(session_id)
    assert found is not None
    return found.error or ""


async def test_an_unknown_tool_is_refused_at_once_and_the_refusal_names_those_that_exist(node: Node) -> None:
    async with Ufo(node) as device:
        sid = await dispatch(node, commands=commands("execute_command", "no_such_tool"))
        assert (await next_of(device, "task_end")).status == "failed"
        assert device.count("command") == 1, "it was asked for its tools, and sent nothing else"
        await state_is(node, sid, S.FAILED)
        assert await error_of(node, sid) == (
            "The device has no tool 'no_such_tool' (action) for agent LinuxAgent: "
            "it has execute_command (action), get_system_info (action)"
        )


async def test_a_type_of_tools_that_the_agent_has_not_is_refused(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.sessions.tool_catalog.SECOND_ANSWER_S", 0.1)
    async with Ufo(node) as device:
        sid = await dispatch(node, commands=commands("execute_command", tool_type="data_collection"))
        assert (await next_of(device, "task_end")).status == "failed"
        assert "no tool 'execute_command' (data_collection)" in await error_of(node, sid)


async def test_a_device_is_asked_once_however_many_sessions_begin_and_not_for_what_its_platform_has_not(
    node: Node,
) -> None:
    async with Ufo(node) as device:
        sids = [await dispatch(node, commands=commands("execute_command")) for _ in range(5)]
        for _ in sids:
            command, _ = await device.next_commands()
            device.answer(command, OK)
        for sid in sids:
            await state_is(node, sid, S.COMPLETED)
        assert device.asked == ["action"]


async def test_a_tool_that_came_after_the_device_was_asked_is_found(node: Node) -> None:
    async with Ufo(node) as device:
        await dispatch(node, commands=commands("execute_command"))
        command, _ = await device.next_commands()
        device.answer(command, OK)
        device.tools.append(listed("new_tool", "BashExecutor"))
        sid = await dispatch(node, commands=commands("new_tool"))
        command, actions = await device.next_commands()
        assert [a.tool_name for a in actions] == ["new_tool"]
        device.answer(command, OK)
        await state_is(node, sid, S.COMPLETED)


async def test_a_device_that_does_not_say_which_tools_it_has_is_asked_once_and_trusted(make_node: MakeNode) -> None:
    node = await make_node(tools_timeout_s=0.2)
    async with Device(node, features=()) as device:
        device.lists_tools = True
        for _ in range(2):
            sid = await dispatch(node, commands=commands("anything"))
            while True:
                command, actions = await device.next_commands()
                if actions[0].tool_name != "list_tools":
                    break
            device.answer(command, OK)
            await state_is(node, sid, S.COMPLETED)
        assert device.count("command") == 3, "one question, two commands"


@pytest.mark.parametrize(
    "device_of",
    [
        lambda node: Device(node, features=OURS),
        lambda node: Device(node, features=(), tools=[{"tool_name": "other"}]),
        lambda node: Device(node, features=(), aip_format="payload"),
    ],
    ids=["answers every command", "listed its tools", "documents' form"],
)
async def test_a_device_that_answers_every_command_is_not_asked(node: Node, device_of: Any) -> None:
    async with device_of(node) as device:
        device.lists_tools = True
        await dispatch(node, commands=commands("anything"))
        assert (await device.receive()).type == "task"
        assert "list_tools" not in await device.receive_raw()


async def test_a_command_that_is_not_answered_ends_its_session_and_says_so(make_node: MakeNode) -> None:
    node = await make_node(command_timeout_s=0.3)
    async with Ufo(node) as device:
        sid = await dispatch(node, commands=commands("execute_command"))
        await device.next_commands()
        assert (await next_of(device, "task_end")).status == "failed"
        await state_is(node, sid, S.FAILED)
        assert await error_of(node, sid) == "The device took 'execute_command' and did not answer within 0.3 s"


async def test_a_command_may_have_a_time_of_its_own_which_the_device_is_not_sent(node: Node) -> None:
    async with Ufo(node) as device:
        sid = await dispatch(node, commands=commands("execute_command", timeout_s=0.3))
        _, actions = await device.next_commands()
        assert actions[0].timeout_s is None
        await state_is(node, sid, S.FAILED)
        assert "did not answer within 0.3 s" in await error_of(node, sid)


async def test_commands_of_one_message_have_their_time_together(make_node: MakeNode) -> None:
    node = await make_node(command_timeout_s=0.25)
    async with Ufo(node):
        sid = await dispatch(node, commands=commands("execute_command", "get_system_info"))
        await state_is(node, sid, S.FAILED)
        assert "'execute_command', 'get_system_info' and did not answer within 0.5 s" in await error_of(node, sid)


async def test_a_device_that_deduplicates_has_until_the_deadline(make_node: MakeNode) -> None:
    node = await make_node(command_timeout_s=0.1)
    async with Device(node, features=OURS) as device:
        sid = await dispatch(node, timeout_s=1)
        await device.next_commands()
        await state_is(node, sid, S.TIMED_OUT)


@pytest.mark.parametrize("value", [0, -1, "soon", True, 1e400])
async def test_a_time_that_is_none_is_refused(node: Node, value: Any) -> None:
    async with Ufo(node), rest(node) as api:
        body = {"client_id": "device-1", "request": "x", "commands": commands("execute_command", timeout_s=value)}
        answer = await api.post("/api/dispatch", content=orjson.dumps(body).replace(b"null", b"1e400"))
        assert answer.status_code in {400, 415}, answer.text
