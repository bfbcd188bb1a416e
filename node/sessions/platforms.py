"""Which tool set of a device serves the commands, by platform.

UFO's device looks the tools up under the command's `agent_name`, and answers nothing at all when it has no such agent.
"""

from typing import Any, NamedTuple

__all__ = ["AgentNames", "agent_names"]


class AgentNames(NamedTuple):
    """The three names that a command message carries."""

    agent_name: str | None
    process_name: str | None
    root_name: str | None


_AGENTS = {"linux": "LinuxAgent", "windows": "HostAgent", "mobile": "MobileAgent", "android": "MobileAgent"}


def agent_names(platform: str, metadata: dict[str, Any]) -> AgentNames:
    """The names for a device of `platform`; `metadata` of the dispatch may name others."""

    def given(name: str) -> str | None:
        value = metadata.get(name)
        return value if isinstance(value, str) else None

    return AgentNames(given("agent_name") or _AGENTS.get(platform.lower()), given("process_name"), given("root_name"))
