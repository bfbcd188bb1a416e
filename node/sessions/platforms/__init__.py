"""Platforms: which agents a device of a kind has, and what a planner is told about it. All of it in files beside this.

Adding a platform touches one new TOML file (and a prompt): `name`, `aliases`, `prompt`, `agents`, `tool_types` where an
agent has not both, and for platforms where one agent's tool decides what the next works on, `[focus]`. UFO's device
looks its tools up under the command's `agent_name` and `tool_type`, and answers nothing at all where it has no such
agent, or no server for that type.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["TOOL_TYPES", "AgentNames", "Focus", "Platform", "platform_named"]

DEFAULT = "default"
TOOL_TYPES = ("action", "data_collection")


@dataclass(frozen=True, slots=True)
class AgentNames:
    """The three names that a command message carries: whose tools, and on which program."""

    agent_name: str | None = None
    process_name: str | None = None
    root_name: str | None = None


@dataclass(frozen=True, slots=True)
class Focus:
    """A tool whose result names the program that another agent works on from then on.

    `process_name` and `root_name` are dotted paths into the tool's result.
    """

    tool: str
    agent: str
    process_name: str
    root_name: str


@dataclass(frozen=True, slots=True)
class Platform:
    """A kind of device."""

    name: str
    prompt: str
    # The first serves commands that name no agent.
    agents: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    focus: Focus | None = None
    # Agents that have tools only once a program is in focus.
    focused_agents: frozenset[str] = field(default_factory=frozenset)
    # Where an agent has not both.
    agent_tool_types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def tool_types(self, agent_name: str | None) -> tuple[str, ...]:
        """The types of tools that an agent is asked to list."""
        return self.agent_tool_types.get(agent_name or "", TOOL_TYPES)

    def names(self, metadata: dict[str, Any]) -> AgentNames:
        """Whose tools serve a task; `metadata` of the dispatch may name others than the platform's first."""
        if not metadata:
            return _first_of(self.agents)

        def given(name: str) -> str | None:
            value = metadata.get(name)
            return value if isinstance(value, str) and value else None

        default = self.agents[0] if self.agents else None
        return AgentNames(given("agent_name") or default, given("process_name"), given("root_name"))


@cache
def _first_of(agents: tuple[str, ...]) -> AgentNames:
    return AgentNames(agents[0] if agents else None)


def _load() -> dict[str, Platform]:
    found: dict[str, Platform] = {}
    folder = files(__name__)
    for entry in folder.iterdir():
        if not entry.name.endswith(".toml"):
            continue
        data = tomllib.loads(entry.read_text(encoding="utf-8"))
        focus = data.get("focus")
        platform = Platform(
            name=data["name"],
            prompt=(folder / data["prompt"]).read_text(encoding="utf-8"),
            agents=tuple(data.get("agents", ())),
            aliases=tuple(data.get("aliases", ())),
            focus=Focus(**focus) if focus else None,
            focused_agents=frozenset(data.get("focused_agents", ())),
            agent_tool_types={agent: tuple(types) for agent, types in data.get("tool_types", {}).items()},
        )
        for name in (platform.name, *platform.aliases):
            found[name] = platform
    return found


_PLATFORMS = _load()


def platform_named(name: str) -> Platform:
    """The platform of that name or alias; one without agents of its own if there is none."""
    return _PLATFORMS.get(name.lower(), _PLATFORMS[DEFAULT])
