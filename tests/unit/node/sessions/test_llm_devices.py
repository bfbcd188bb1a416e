"""The planner that asks a model, on devices of UFO's kinds: which tools they list, and whose tools are called."""

import orjson
import pytest

from aip_cluster.protocol import Command, Result, ResultStatus
from devtools.model_server import ModelServer, Reply, call, raw_call, say
from node.sessions import tool_catalog as toolbelt_module
from tests.support.asgi import Device, rest
from tests.support.llm_devices import LISTED, Json, Tools, listed, stage
from tests.support.wait import PATIENCE_S
from tests.unit.node.conftest import MakeNode

KEY = "k3y-of-the-device"
EXCEL = {"root_name": "EXCEL.EXE", "window_info": {"process_name": "Book1 - Excel", "title": "Book1"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbelt_module, "SECOND_ANSWER_S", 0.1)


LINUX: Tools = {"LinuxAgent": {"action": LISTED}}
SECRETS = {"execute_command": {"api_key": KEY}}


async def test_a_device_that_answers_for_one_type_of_tools_is_planned_for(make_node: MakeNode) -> None:
    script = (Reply(calls=(call("execute_command", command="uptime"),)), say("Up for long."))
    async with stage(make_node, "linux", LINUX, *script) as it:
        session = await it.run()
        again = await it.run()
    assert (session["state"], session["result"]) == ("completed", "Up for long.")
    assert again["state"] == "failed", "the script has run out"
    assert it.device.asked == [("LinuxAgent", "action", None, None)], (
        "asked once, for the one type that UFO's Linux device has, and not again in the next session"
    )
    ((message, _),) = it.device.commands
    assert message.agent_name == "LinuxAgent"


async def test_a_device_that_lists_nothing_ends_the_task_with_a_reason(make_node: MakeNode) -> None:
    async with stage(make_node, "linux", {}, tools_timeout_s=0.2) as it:
        session = await it.run()
    assert (session["state"], session["error"]) == ("failed", "The device offers no tools")
    assert it.llm.questions == []


async def test_a_device_that_listed_its_tools_when_it_registered_is_not_asked(make_node: MakeNode) -> None:
    tools = [listed("look", "eyes"), "not a tool", {"tool_name": 5}, None, {"tool_name": "bare"}]
    async with stage(make_node, "linux", {}, say("Seen."), registered=tools) as it:
        session = await it.run()
    assert session["result"] == "Seen."
    assert it.device.asked == []
    assert it.llm.questions[0].tool_names() == ["look", "bare"]


async def test_the_window_that_was_selected_is_what_the_next_agent_works_in(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both answers come, and both are wanted.
    monkeypatch.setattr(toolbelt_module, "SECOND_ANSWER_S", PATIENCE_S)
    windows: Tools = {
        "HostAgent": {
            "action": [listed("select_application_window", "HostUIExecutor", "id")],
            "data_collection": [listed("get_desktop_app_info", "UICollector", tool_type="data_collection")],
        },
        "AppAgent": {"action": [listed("click_input", "AppUIExecutor", "id")], "data_collection": []},
    }

    def act(command: Command) -> Result:
        value = EXCEL if command.tool_name == "select_application_window" else "done"
        return Result(status=ResultStatus.SUCCESS, result=value, call_id=command.call_id)

    script = (
        Reply(calls=(call("get_desktop_app_info"), call("select_application_window", id="3"))),
        Reply(calls=(call("click_input", id="A1"), call("get_desktop_app_info"))),
        say("The sum is 6."),
    )
    async with stage(make_node, "windows", windows, *script, act=act) as it:
        session = await it.run()
    assert (session["state"], session["result"]) == ("completed", "The sum is 6."), session
    offered = [question.tool_names() for question in it.llm.questions]
    assert sorted(offered[0]) == ["get_desktop_app_info", "select_application_window"]
    assert "click_input" in offered[1]
    sent = [(m.agent_name, m.process_name, m.root_name, c.tool_name, c.tool_type) for m, c in it.device.commands]
    assert sent == [
        ("HostAgent", None, None, "get_desktop_app_info", "data_collection"),
        ("HostAgent", None, None, "select_application_window", "action"),
        ("AppAgent", "Book1 - Excel", "EXCEL.EXE", "click_input", "action"),
        ("HostAgent", "Book1 - Excel", "EXCEL.EXE", "get_desktop_app_info", "data_collection"),
    ]
    assert ("AppAgent", "action", "Book1 - Excel", "EXCEL.EXE") in it.device.asked
    assert not any(agent == "AppAgent" and process is None for agent, _, process, _ in it.device.asked)


async def test_a_window_that_could_not_be_selected_changes_nothing(make_node: MakeNode) -> None:
    tools: Tools = {
        "HostAgent": {"action": [listed("select_application_window", "HostUIExecutor", "id")], "data_collection": []}
    }

    def act(command: Command) -> Result:
        return Result(status=ResultStatus.FAILURE, error="no such window", result=EXCEL, call_id=command.call_id)

    script = (Reply(calls=(call("select_application_window", id="9"),)), say("There is none."))
    async with stage(make_node, "windows", tools, *script, act=act) as it:
        session = await it.run()
    assert session["state"] == "completed"
    assert it.llm.questions[1].tool_names() == ["select_application_window"]
    assert all(process is None for _, _, process, _ in it.device.asked)


async def test_an_agent_that_the_dispatch_names_is_the_only_one(make_node: MakeNode) -> None:
    tools: Tools = {"AppAgent": {"action": [listed("click_input", "AppUIExecutor", "id")], "data_collection": []}}
    script = (Reply(calls=(call("click_input", id="A1"),)), say("Clicked."))
    names = {"agent_name": "AppAgent", "process_name": "Book1 - Excel", "root_name": "EXCEL.EXE"}
    async with stage(make_node, "windows", tools, *script) as it:
        session = await it.run(metadata=names)
    assert session["result"] == "Clicked."
    assert {agent for agent, *_ in it.device.asked} == {"AppAgent"}
    ((message, _),) = it.device.commands
    assert (message.agent_name, message.process_name, message.root_name) == tuple(names.values())


async def test_the_device_gets_the_key_and_nobody_else(make_node: MakeNode) -> None:
    script = (Reply(calls=(call("execute_command", command="ls"),)), say(f"Done, and {KEY} is not known here."))
    async with stage(make_node, "linux", LINUX, *script, tool_secrets=SECRETS) as it:
        session = await it.run()
    ((_, sent),) = it.device.commands
    assert sent.parameters == {"command": "ls", "api_key": KEY}
    (offered,) = it.llm.questions[0].body["tools"]
    assert offered["function"]["parameters"]["properties"].keys() == {"command"}
    assert all(KEY not in str(question.body) for question in it.llm.questions), "the device echoed it"
    assert "[redacted]" in it.llm.questions[1].outputs()[0]
    assert KEY not in str(session["steps"])


async def test_what_makes_no_sense_is_told_to_the_model_and_not_to_the_device(make_node: MakeNode) -> None:
    script = (
        Reply(calls=(raw_call("rm", "{}"), call("execute_command", command="ls"))),
        Reply(calls=(raw_call("execute_command", "{'command'"),)),
        Reply(calls=(raw_call("execute_command", "[]"),)),
        Reply(calls=(call("execute_command", command="ls"),)),
        say("Done at last."),
    )
    async with stage(make_node, "linux", LINUX, *script) as it:
        session = await it.run()
    assert session["result"] == "Done at last."
    assert [c.parameters for _, c in it.device.commands] == [{"command": "ls"}]
    first, second, third, _ = [o for o in it.llm.questions[-1].outputs() if "Skipped" not in o]
    assert "There is no tool 'rm'" in first
    assert "JSON object" in second
    assert "JSON object" in third
    assert (session["prompt_tokens"], session["completion_tokens"]) == (500, 50)


async def test_what_a_device_says_about_itself_does_not_break_the_session(make_node: MakeNode) -> None:
    odd = [
        {**listed("a", "x"), "input_schema": None},
        {**listed("b", "x"), "input_schema": {"properties": None, "required": None}},
        {**listed("c", "x"), "description": 5, "namespace": None, "tool_type": "magic"},
    ]
    secrets = {"b": {"api_key": KEY}}
    async with stage(make_node, "linux", {"LinuxAgent": {"action": odd}}, say("Fine."), tool_secrets=secrets) as it:
        session = await it.run()
    assert (session["state"], session["result"]) == ("completed", "Fine."), session["error"]
    assert it.llm.questions[0].tool_names() == ["a", "b", "c"]


async def test_what_the_endpoint_says_it_cost_does_not_break_the_session(make_node: MakeNode) -> None:
    script = say("Fine.", usage={"prompt_tokens": "many", "completion_tokens": -3})
    async with stage(make_node, "linux", LINUX, script) as it:
        session = await it.run()
    assert (session["state"], session["result"]) == ("completed", "Fine."), session["error"]


async def test_a_device_that_ends_the_task_itself_does_not_tell_the_key(make_node: MakeNode) -> None:
    async with ModelServer(Reply(calls=(call("execute_command", command="ls"),))) as llm:
        node = await make_node(llm_base_url=llm.url, llm_model="scripted-1", tool_secrets=SECRETS)
        raw = Device(node)
        raw.metadata["tools"] = LISTED
        async with rest(node, timeout=PATIENCE_S * 2) as client, raw:
            body = {"client_id": "device-1", "request": "anything"}
            task = (await client.post("/api/dispatch", json=body)).json()
            message, _ = await raw.next_commands()
            raw.send(
                type="task_end",
                status="failed",
                session_id=message.session_id,
                error=f"ran with {KEY}",
                result={"line": f"ls --key {KEY}"},
            )
            result = await client.get(f"/api/task_result/{task['task_name']}", params={"wait": PATIENCE_S})
            session = await client.get(f"/api/sessions/{task['session_id']}")
    assert result.json()["state"] == "failed"
    assert KEY not in result.text
    assert KEY not in session.text


async def test_a_device_that_speaks_the_documents_form_can_be_planned_for(make_node: MakeNode) -> None:
    async with ModelServer(Reply(calls=(call("execute_command", command="ls"),)), say("Listed.")) as llm:
        node = await make_node(llm_base_url=llm.url, llm_model="scripted-1", tool_secrets=SECRETS)
        raw = Device(node)
        raw.metadata |= {"aip_format": "payload", "tools": LISTED}
        async with rest(node, timeout=PATIENCE_S * 2) as client, raw:
            body = {"client_id": "device-1", "request": "anything"}
            task = (await client.post("/api/dispatch", json=body)).json()
            frame: Json = {}
            while "payload" not in frame:
                frame = orjson.loads(await raw.receive_raw())
            assert frame["payload"] == {"function": "execute_command", "arguments": {"command": "ls", "api_key": KEY}}
            answer = {"status": "success", "data": f"ran with {KEY}"}
            raw.send(type="result", request_id=frame["request_id"], payload=answer)
            result = await client.get(f"/api/task_result/{task['task_name']}", params={"wait": PATIENCE_S})
    assert result.json()["result"] == "Listed.", result.text
    assert "[redacted]" in llm.questions[1].outputs()[0]


async def test_an_endpoint_that_does_not_say_what_it_cost_leaves_the_same_steps(make_node: MakeNode) -> None:
    script = (
        Reply(text="I look.", calls=(call("execute_command", command="ls"),), usage=None),
        say("Listed.", usage=None),
    )
    async with stage(make_node, "linux", LINUX, *script) as it:
        session = await it.run()
        steps = [step for step in session["steps"] if step["event"] in {"plan", "commands"}]
        assert [step["event"] for step in steps] == ["plan", "commands", "plan"]
        assert steps[0]["text"] == "I look."
        assert b'aip_llm_calls_total{outcome="act"} 1.0' in it.node.metrics.expose()
