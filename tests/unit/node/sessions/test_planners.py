"""Who plans a task, and what the planners do with it."""

import pytest

from aip_cluster.protocol import Command, Result, ResultStatus
from node.sessions.planners import Act, Call, Finish, Planner, PlannerRefused, Planners, Task, Turn
from node.sessions.planners.device import DevicePlanner
from node.sessions.planners.direct import DirectPlanner
from node.settings import Settings

COMMANDS = [Command(tool_name="one"), Command(tool_name="two")]
AUTONOMOUS = frozenset({"autonomous"})
PLAIN = frozenset({"cli"})
OK = Result(status=ResultStatus.SUCCESS, result=1)


CALLS = [Call(command) for command in COMMANDS]


def _task(*results: Result) -> Task:
    return Task(
        request="do it",
        platform="linux",
        prompt="",
        agent_name=None,
        commands=COMMANDS,
        metadata={},
        turns=[Turn(CALLS, list(results))] if results else [],
    )


def _choose(name: str | None, commands: list[Command], features: frozenset[str], **settings: str) -> Planner:
    return Planners(Settings.model_validate(settings)).choose(name, commands=commands, features=features)


@pytest.mark.parametrize("name", [None, "auto"])
def test_given_commands_are_executed_as_given(name: str | None) -> None:
    assert _choose(name, COMMANDS, PLAIN).name == "direct"
    assert _choose(name, COMMANDS, AUTONOMOUS).name == "direct"


@pytest.mark.parametrize("name", [None, "auto"])
def test_an_autonomous_device_plans_by_itself(name: str | None) -> None:
    planner = _choose(name, [], AUTONOMOUS)
    assert planner.name == "device"
    assert planner.device_driven


@pytest.mark.parametrize(
    ("name", "commands", "features", "remedy"),
    [
        (None, [], PLAIN, "give 'commands'"),
        ("auto", [], PLAIN, "'autonomous'"),
        ("direct", [], AUTONOMOUS, "give 'commands'"),
        ("device", [], PLAIN, "'autonomous'"),
        ("device", COMMANDS, AUTONOMOUS, "leave 'commands' out"),
    ],
)
def test_a_refusal_says_what_to_change(
    name: str | None, commands: list[Command], features: frozenset[str], remedy: str
) -> None:
    with pytest.raises(PlannerRefused, match=remedy):
        _choose(name, commands, features)


def test_the_default_of_the_settings_counts_when_a_dispatch_names_none() -> None:
    with pytest.raises(PlannerRefused, match="give 'commands'"):
        _choose(None, [], AUTONOMOUS, planner="direct")
    assert _choose("auto", [], AUTONOMOUS, planner="direct").name == "device"


@pytest.mark.parametrize("name", ["magic", ""])
def test_a_default_that_is_not_installed_ends_the_start(name: str) -> None:
    with pytest.raises(ValueError, match="is not installed; there are auto, direct, device, llm"):
        Planners(Settings(planner=name))


def test_a_dispatch_may_name_what_is_listed_and_nothing_else() -> None:
    planners = Planners(Settings())
    assert planners.names()[:4] == ["auto", "direct", "device", "llm"]
    assert all(name in planners for name in planners.names())
    others: list[object] = ["", "magic", None, 5, [], {}]
    assert [name for name in others if name in planners] == []
    with pytest.raises(PlannerRefused, match="Planner 'magic' is not installed"):
        planners.choose("magic", commands=COMMANDS, features=PLAIN)


async def test_direct_sends_everything_first() -> None:
    assert await DirectPlanner().next(_task()) == Act(CALLS)


async def test_direct_ends_well_with_all_results() -> None:
    second = Result(status=ResultStatus.SUCCESS, result={"x": None}, call_id="c")
    assert await DirectPlanner().next(_task(OK, second)) == Finish(
        result=[{"status": "success", "result": 1}, {"status": "success", "result": {"x": None}, "call_id": "c"}]
    )


async def test_direct_ends_with_the_first_failure_and_what_came_before() -> None:
    failed = Result(status=ResultStatus.FAILURE, error="no such tool")
    step = await DirectPlanner().next(_task(OK, failed))
    assert isinstance(step, Finish)
    assert step.error == "two: no such tool"
    assert [r["status"] for r in step.result] == ["success", "failure"]


async def test_direct_names_a_failure_without_a_reason() -> None:
    step = await DirectPlanner().next(_task(Result(status=ResultStatus.FAILURE)))
    assert step == Finish(result=[{"status": "failure"}], error="one: failed without a reason")


async def test_a_device_that_plans_is_never_asked_what_to_do() -> None:
    step = await DevicePlanner().next(_task())
    assert isinstance(step, Finish)
    assert step.error


async def test_direct_is_not_confused_by_more_answers_than_commands() -> None:
    step = await DirectPlanner().next(_task(OK, OK, Result(status=ResultStatus.FAILURE, error="extra")))
    assert isinstance(step, Finish)
    assert step.error == "command: extra"
