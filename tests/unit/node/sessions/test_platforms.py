"""Platforms: which tool set of a device is asked, and what a planner is told about the device."""

from typing import Any

import pytest

from node.sessions.platforms import AgentNames, platform_named


@pytest.mark.parametrize(
    ("platform", "agent"),
    [
        ("linux", "LinuxAgent"),
        ("Linux", "LinuxAgent"),
        ("windows", "HostAgent"),
        ("mobile", "MobileAgent"),
        ("android", "MobileAgent"),
        ("", None),
        ("beos", None),
        ("../linux", None),
    ],
)
def test_the_platform_names_the_agent(platform: str, agent: str | None) -> None:
    assert platform_named(platform).names({}) == AgentNames(agent)


def test_a_dispatch_may_name_another() -> None:
    metadata = {"agent_name": "AppAgent", "process_name": "Book1 - Excel", "root_name": "EXCEL.EXE"}
    assert platform_named("windows").names(metadata) == AgentNames("AppAgent", "Book1 - Excel", "EXCEL.EXE")


@pytest.mark.parametrize("value", [1, None, [], {}, True, ""])
def test_a_name_that_is_no_text_is_not_taken(value: Any) -> None:
    metadata = {"agent_name": value, "process_name": value, "root_name": value}
    assert platform_named("linux").names(metadata) == AgentNames("LinuxAgent")


@pytest.mark.parametrize("name", ["linux", "windows", "mobile", "default"])
def test_every_platform_has_a_prompt_and_knows_the_agents_that_it_speaks_of(name: str) -> None:
    platform = platform_named(name)
    assert platform.name == name
    assert platform.prompt.strip()
    assert platform.focused_agents <= set(platform.agents)
    assert platform.focus is None or platform.focus.agent in platform.agents
