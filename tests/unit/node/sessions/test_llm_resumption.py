"""A session that a model plans, and whose device moves in its midst: no step is planned twice, none is forgotten."""

import asyncio
from typing import Any

import pytest

from devtools.model_server import ModelServer, Reply, call, say
from node.sessions import tool_catalog as toolbelt_module
from shared_state.sessions import SessionState
from tests.support.asgi import Device, rest
from tests.support.features import OURS
from tests.support.llm_devices import LISTED, echo
from tests.support.tasks import state_is
from tests.unit.node.conftest import MakeNode

TOOLS: dict[str, Any] = {"tools": LISTED}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for tools."""
    monkeypatch.setattr(toolbelt_module, "SECOND_ANSWER_S", 0.1)


@pytest.mark.parametrize("recognises", [True, False])
async def test_a_step_that_is_in_the_journal_is_not_planned_again(make_node: MakeNode, *, recognises: bool) -> None:
    """The first step is done, the second under way: the model is asked for the third, and shown both."""
    script = (
        Reply(calls=(call("execute_command", command="first"),)),
        Reply(calls=(call("execute_command", command="second"),)),
        say("Done."),
    )
    features = OURS if recognises else ("commands_without_echo",)
    async with ModelServer(*script) as llm:
        settings = {"llm_base_url": llm.url, "llm_model": "scripted-1"}
        here, there = await make_node(**settings), await make_node(**settings)
        device = await Device(here, features=features, **TOOLS).__aenter__()
        async with rest(here) as api:
            answer = await api.post("/api/dispatch", json={"client_id": "device-1", "request": "twice"})
            sid = answer.json()["session_id"]
        first, actions = await device.next_commands()
        device.answer(first, *[echo(a) for a in actions])
        second, _ = await device.next_commands()
        await device.cut()
        async with Device(there, features=features, **TOOLS) as back:
            if not recognises:
                await state_is(here, sid, SessionState.FAILED)
                assert len(llm.questions) == 2
                return
            again, actions = await back.next_commands()
            assert again.response_id == second.response_id
            assert [a.parameters for a in actions] == [{"command": "second"}]
            back.answer(again, *[echo(a) for a in actions])
            await state_is(here, sid, SessionState.COMPLETED)
        assert llm.left == 0
        assert len(llm.questions) == 3
        outputs = llm.questions[-1].outputs()
        assert [("first" in o, "second" in o) for o in outputs] == [(True, False), (False, True)]
        found = await here.state.sessions.find(sid)
        assert found is not None
        assert (found.prompt_tokens, found.completion_tokens) == (300, 30), "what was spent before counts, too"


async def test_a_device_that_moves_while_the_model_thinks_may_be_of_any_kind(make_node: MakeNode) -> None:
    """No command is under way: nothing could be carried out twice."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def thinking() -> None:
        asked.set()
        await gone.wait()

    script = (
        Reply(calls=(call("execute_command", command="first"),)),
        say("Nobody hears this.").after(thinking),
        say("Done."),
    )
    async with ModelServer(*script) as llm:
        settings = {"llm_base_url": llm.url, "llm_model": "scripted-1"}
        here, there = await make_node(**settings), await make_node(**settings)
        features = ("commands_without_echo",)
        device = await Device(here, features=features, **TOOLS).__aenter__()
        async with rest(here) as api:
            answer = await api.post("/api/dispatch", json={"client_id": "device-1", "request": "once"})
            sid = answer.json()["session_id"]
        first, actions = await device.next_commands()
        device.answer(first, *[echo(a) for a in actions])
        await asked.wait()
        await device.cut()
        gone.set()
        async with Device(there, features=features, **TOOLS) as back:
            await state_is(here, sid, SessionState.COMPLETED)
            assert back.count("command") == 0
        found = await here.state.sessions.find(sid)
        assert found is not None
        assert found.result == "Done."
