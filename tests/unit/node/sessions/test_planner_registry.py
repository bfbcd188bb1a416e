"""Planners that installed packages bring, and what a dispatch that none can run is told."""

import contextlib
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from typing import Any

import httpx
import pytest

from aip_cluster.protocol import Command
from node.sessions.planners import Finish, PlannerRefused, Planners, Step, Task, registry
from node.settings import Settings
from tests.support.asgi import Device, rest
from tests.unit.node.conftest import MakeNode

PLAIN = frozenset({"cli"})


class Oracle:
    """A planner of another package: knows the answer to tasks in words."""

    name = "oracle"
    device_driven = False
    wants_tools = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.closed = False

    def check(self, *, commands: Sequence[Command], features: frozenset[str]) -> None:
        if commands:
            raise PlannerRefused("Planner 'oracle' takes no commands")

    async def next(self, task: Task) -> Step:
        return Finish(result=f"{task.request}: 42")

    async def close(self) -> None:
        self.closed = True


def broken(settings: Settings) -> Oracle:
    raise RuntimeError("no licence")


Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def install(*names: str, value: str = f"{__name__}:Oracle") -> None:
        def entry_points(*, group: str) -> list[EntryPoint]:
            assert group == "aip_cluster.planners"
            return [EntryPoint(name, value, group) for name in names]

        monkeypatch.setattr(registry, "entry_points", entry_points)

    return install


def planners(**settings: Any) -> Planners:
    return Planners(Settings.model_validate(settings))


def test_a_planner_of_a_package_is_there_by_its_entrys_name(install: Install) -> None:
    install("oracle", "delphi")
    it = planners()
    assert it.names() == ["auto", "direct", "device", "llm", "oracle", "delphi"]
    assert "delphi" in it
    chosen = it.choose("delphi", commands=[], features=PLAIN)
    assert isinstance(chosen, Oracle)
    assert chosen.settings.planner == "auto"


def test_it_comes_after_ours_where_nobody_chooses(install: Install) -> None:
    install("oracle")
    assert planners().choose(None, commands=[], features=PLAIN).name == "oracle"
    assert planners().choose(None, commands=[], features=frozenset({"autonomous"})).name == "device"
    assert planners().choose(None, commands=[Command(tool_name="x")], features=PLAIN).name == "direct"
    llm = {"llm_base_url": "http://llm.example/v1", "llm_model": "m"}
    assert planners(**llm).choose(None, commands=[], features=PLAIN).name == "llm"


def test_it_may_be_the_default_and_its_refusals_count(install: Install) -> None:
    install("oracle")
    it = planners(planner="oracle")
    assert it.choose(None, commands=[], features=frozenset({"autonomous"})).name == "oracle"
    with pytest.raises(PlannerRefused, match="takes no commands"):
        it.choose(None, commands=[Command(tool_name="x")], features=PLAIN)
    assert it.choose("auto", commands=[Command(tool_name="x")], features=PLAIN).name == "direct"


@pytest.mark.parametrize("names", [("direct",), ("llm",), ("auto",), ("oracle", "oracle")])
def test_two_planners_of_one_name_end_the_start(names: tuple[str, ...], install: Install) -> None:
    install(*names)
    with pytest.raises(ValueError, match=f"named '{names[-1]}'"):
        planners()


@pytest.mark.parametrize("value", [f"{__name__}:broken", f"{__name__}:absent", "no_such_package.at_all:x", "os:sep"])
def test_one_that_cannot_be_loaded_is_logged_and_the_others_are_there(
    value: str, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("oracle", value=value)
    assert planners().names() == ["auto", "direct", "device", "llm"]
    assert "could not be loaded" in caplog.text


def test_a_default_that_cannot_be_loaded_ends_the_start(install: Install) -> None:
    install("oracle", value=f"{__name__}:broken")
    with pytest.raises(ValueError, match="'oracle' is not installed"):
        planners(planner="oracle")


async def test_all_of_them_are_closed_even_if_one_cannot_be(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("oracle", "delphi")
    it = planners()
    first, second = it.get("oracle"), it.get("delphi")
    assert isinstance(first, Oracle)
    assert isinstance(second, Oracle)

    async def fail() -> None:
        raise RuntimeError("it will not")

    monkeypatch.setattr(first, "close", fail)
    with contextlib.suppress(RuntimeError):
        await it.close()
    assert second.closed


async def _dispatch(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/api/dispatch", json={"client_id": "device-1", "request": "what is it", **fields})


async def test_a_dispatch_is_run_by_a_planner_of_a_package(install: Install, make_node: MakeNode) -> None:
    install("oracle")
    node = await make_node()
    async with rest(node) as client, Device(node):
        dispatched = await _dispatch(client, planner="oracle")
        assert dispatched.status_code == 200, dispatched.text
        result = await client.get(f"/api/task_result/{dispatched.json()['task_name']}", params={"wait": 20})
    assert result.json()["result"] == "what is it: 42"


async def test_a_dispatch_that_nobody_can_plan_is_told_the_three_remedies(make_node: MakeNode) -> None:
    node = await make_node()
    async with rest(node) as client, Device(node):
        refused = await _dispatch(client)
        detail = refused.json()["detail"]
        assert refused.status_code == 422
        assert all(word in detail for word in ("'commands'", "'autonomous'", "AIP_LLM_BASE_URL", "AIP_LLM_MODEL"))
        assert (await client.get("/api/sessions")).json()["sessions"] == [], "no session is left behind"
        unknown = await _dispatch(client, planner="magic")
        assert unknown.status_code == 400
        assert "auto, direct, device, llm" in unknown.json()["detail"]
