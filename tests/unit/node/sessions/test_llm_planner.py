"""The planner that asks a model: from a task and an answer to the next step, within its budgets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from aip_cluster.protocol import Command, Result, ResultStatus
from devtools.model_server import Broken, ModelServer, Raw, Reply, Scripted, call, fails, raw_call, say, too_many
from node.sessions.planners import Act, Call, Finish, PlannerRefused, Task, Tokens, Tool, Turn
from node.sessions.planners.llm import LlmPlanner
from node.sessions.planners.llm import endpoint as endpoint_module
from node.settings import Settings
from tests.support.wait import until

PLAIN = frozenset({"cli"})
READ = Tool("read", "action", "local", "reads", {"type": "object", "properties": {"path": {"type": "string"}}})
WRITE = Tool("write", "action", "local", "writes", {"type": "object", "properties": {}}, agent_name="AppAgent")

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@asynccontextmanager
async def planning(*script: Scripted, **settings: Any) -> AsyncIterator[tuple[LlmPlanner, ModelServer]]:
    async with ModelServer(*script) as server:
        given = {"llm_base_url": server.url, "llm_model": "scripted-1", **settings}
        planner = LlmPlanner(Settings.model_validate(given))
        try:
            yield planner, server
        finally:
            await planner.close()


def task(*turns: Turn, **fields: Any) -> Task:
    given: dict[str, Any] = {"tools": [READ, WRITE], "agent_name": None, **fields}
    return Task("tidy up", "linux", "It runs Linux.", commands=[], metadata={}, turns=list(turns), **given)


def turn(text: str = "") -> Turn:
    command = Command(tool_name="read", parameters={"path": "/"}, call_id="c1")
    return Turn([Call(command)], [Result(status=ResultStatus.SUCCESS, result="ok")], text)


@both_ways
async def test_words_without_a_call_are_the_result(stream: bool) -> None:
    async with planning(say("All tidy."), llm_stream=stream) as (planner, _):
        assert await planner.next(task()) == Finish(result="All tidy.", tokens=Tokens(100, 10), asked=True)


@both_ways
async def test_calls_are_the_next_step(stream: bool) -> None:
    reply = Reply(text="I look.", calls=(call("read", path="/"), call("write")))
    async with planning(reply, llm_stream=stream) as (planner, server):
        step = await planner.next(task())
    assert isinstance(step, Act)
    assert [(c.command.tool_name, c.agent_name, c.refused) for c in step.calls] == [
        ("read", None, None),
        ("write", "AppAgent", None),
    ]
    assert (step.text, step.tokens) == ("I look.", Tokens(100, 10))
    assert server.questions[0].tool_names() == ["read", "write"]


@both_ways
async def test_calls_that_make_no_sense_are_told_to_the_model_not_to_the_device(stream: bool) -> None:
    wanted = (raw_call("rm", "{}"), raw_call("read", "{'path'"), raw_call("read", "[]"), call("read", path="/"))
    async with planning(Reply(calls=wanted), llm_stream=stream) as (planner, _):
        step = await planner.next(task())
    assert isinstance(step, Act)
    assert [c.refused is None for c in step.calls] == [False, False, False, True]


@both_ways
@pytest.mark.parametrize(
    ("scripted", "error"),
    [
        (Reply(refusal="It would harm."), "The model refused: It would harm."),
        (Reply(refusal="no " * 1000), "The model refused: no no"),
        (Reply(finish_reason="content_filter"), "content filter"),
        (Reply(text="par", finish_reason="content_filter"), "content filter"),
        (Reply(), "answered with nothing"),
        (Reply(text=" \n"), "answered with nothing"),
        (Reply(text="The first half of a sen", finish_reason="length"), "length"),
        (Raw(b"<html>", content_type="text/html"), "cannot be read|broke off"),
        (fails(401), "refused with status 401"),
    ],
)
async def test_an_answer_that_is_none_ends_the_task_with_a_reason(stream: bool, scripted: Scripted, error: str) -> None:
    async with planning(scripted, llm_stream=stream) as (planner, _):
        step = await planner.next(task())
    assert isinstance(step, Finish)
    assert step.result is None
    assert step.error is not None
    assert len(step.error) < 1100
    assert any(part in step.error for part in error.split("|"))


async def test_what_passes_does_not_end_a_task() -> None:
    async with planning(too_many(), fails(500), Broken(), say("done")) as (planner, server):
        step = await planner.next(task())
    assert isinstance(step, Finish)
    assert (step.result, len(server.questions)) == ("done", 4)


async def test_a_slow_model_ends_the_task_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "MAX_RETRIES", 0)
    never = asyncio.Event()
    async with planning(say("late").after(never.wait), llm_timeout_s=0.2) as (planner, _):
        step = await planner.next(task())
    assert step == Finish(error="The model's endpoint did not answer in time", asked=True)


@pytest.mark.parametrize(
    ("turns", "tokens", "error"),
    [
        (2, Tokens(), None),
        (3, Tokens(), "not done within 3 steps"),
        (4, Tokens(), "not done within 3 steps"),
        (1, Tokens(990, 9), None),
        (1, Tokens(990, 10), "not done within 1000 tokens"),
        (0, Tokens(5000, 0), "not done within 1000 tokens"),
    ],
)
async def test_a_budget_that_is_spent_ends_the_task_without_another_question(
    turns: int, tokens: Tokens, error: str | None
) -> None:
    async with planning(say("done"), llm_max_steps=3, llm_max_tokens=1000) as (planner, server):
        step = await planner.next(task(*[turn()] * turns, tokens=tokens))
    assert isinstance(step, Finish)
    assert (error in (step.error or "")) if error else step.result == "done"
    assert len(server.questions) == (0 if error else 1)


async def test_a_device_without_tools_cannot_be_planned_for() -> None:
    async with planning(say("done")) as (planner, server):
        assert await planner.next(task(tools=[])) == Finish(error="The device offers no tools")
    assert server.questions == []


async def ended(planner: LlmPlanner, **fields: Any) -> Finish:
    step = await planner.next(task(**fields))
    assert isinstance(step, Finish)
    return step


async def test_each_agent_has_the_model_that_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "llm.yaml"
    path.write_text(yaml.safe_dump({"APP_AGENT": {"API_MODEL": "small"}, "MAX_STEP": 1}))
    async with planning(say("a"), say("b"), llm_config=path) as (planner, server):
        await planner.next(task(agent_name="AppAgent"))
        await planner.next(task(agent_name="HostAgent"))
        assert await planner.next(task(turn())) == Finish(error="The task was not done within 1 steps")
    assert [q.body["model"] for q in server.questions] == ["small", "scripted-1"]


async def test_questions_of_several_sessions_run_side_by_side() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    async with planning(say("a").after(first.wait), say("b").after(second.wait)) as (planner, server):
        one = asyncio.create_task(ended(planner))
        await until(lambda: len(server.questions) == 1, "the first question")
        other = asyncio.create_task(ended(planner))
        await until(lambda: len(server.questions) == 2, "the second question")
        second.set()
        assert (await other).result == "b"
        first.set()
        assert (await one).result == "a"


def test_it_says_what_it_needs() -> None:
    unset = LlmPlanner(Settings())
    with pytest.raises(PlannerRefused, match="AIP_LLM_BASE_URL and AIP_LLM_MODEL"):
        unset.check(commands=[], features=PLAIN)
    ready = LlmPlanner(Settings(llm_base_url="http://llm.example/v1", llm_model="m"))
    ready.check(commands=[], features=PLAIN)
    with pytest.raises(PlannerRefused, match="leave 'commands' out"):
        ready.check(commands=[Command(tool_name="x")], features=PLAIN)


async def test_a_node_without_an_endpoint_ends_the_task_with_a_reason() -> None:
    step = await LlmPlanner(Settings()).next(task())
    assert isinstance(step, Finish)
    assert "not configured on the node that holds the device" in (step.error or "")
