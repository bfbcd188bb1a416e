"""The planners of a node by name: ours, then those that installed packages bring.

`auto` takes the first that accepts the task: commands given → `direct`; the device says that it is autonomous →
`device`; an endpoint is configured → `llm`; else one of the others; else the task is refused with the remedies.
"""

import asyncio
import logging
from collections.abc import Sequence
from importlib.metadata import entry_points

from aip_cluster.protocol import Command
from node.sessions.planners.base import Planner, PlannerRefused
from node.sessions.planners.device import DevicePlanner
from node.sessions.planners.direct import DirectPlanner
from node.sessions.planners.llm import LlmPlanner
from node.settings import Settings

__all__ = ["AUTO", "GROUP", "Planners"]

log = logging.getLogger(__name__)

AUTO = "auto"
GROUP = "aip_cluster.planners"
REMEDIES = (
    "No planner can run this task: give 'commands' with the dispatch (planner 'direct'), or send it to a device that "
    "lists 'autonomous' in system_info.supported_features (planner 'device'), or configure an OpenAI-compatible "
    "endpoint with AIP_LLM_BASE_URL and AIP_LLM_MODEL (planner 'llm')"
)


class Planners:
    """All planners of this node. Raises ValueError for settings that name or configure one wrongly."""

    def __init__(self, settings: Settings) -> None:
        ours: tuple[Planner, ...] = (DirectPlanner(), DevicePlanner(), LlmPlanner(settings))
        self._by_name: dict[str, Planner] = {p.name: p for p in ours}
        for entry in entry_points(group=GROUP):
            if entry.name in self._by_name or entry.name == AUTO:
                raise ValueError(f"planner: two packages bring a planner named '{entry.name}'")
            try:
                self._by_name[entry.name] = entry.load()(settings)
            except Exception:
                log.exception("a planner could not be loaded", extra={"planner": entry.name})
        # Those that a task in words may be for: `direct` would refuse each, which costs more than leaving it out.
        self._for_words = [p for p in self._by_name.values() if p.name != DirectPlanner.name]
        self._default = settings.planner
        if self._default != AUTO and self._default not in self._by_name:
            raise ValueError(f"planner: '{self._default}' is not installed; there are {', '.join(self.names())}")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name == AUTO or name in self._by_name)

    def names(self) -> list[str]:
        """What a dispatch may name."""
        return [AUTO, *self._by_name]

    def get(self, name: str) -> Planner | None:
        """The planner of that name."""
        return self._by_name.get(name)

    def choose(self, name: str | None, *, commands: Sequence[Command], features: frozenset[str]) -> Planner:
        """The planner for a task on a device with `features`; None means the default of the settings.

        Raises PlannerRefused, with a remedy.
        """
        wanted = name or self._default
        if wanted != AUTO:
            planner = self._by_name.get(wanted)
            if planner is None:
                raise PlannerRefused(f"Planner '{wanted}' is not installed; there are {', '.join(self.names())}")
            planner.check(commands=commands, features=features)
            return planner
        for planner in self._by_name.values() if commands else self._for_words:
            try:
                planner.check(commands=commands, features=features)
            except PlannerRefused:
                continue
            return planner
        raise PlannerRefused(REMEDIES)

    async def close(self) -> None:
        """Close every planner."""
        closings = (planner.close() for planner in self._by_name.values())
        for name, outcome in zip(self._by_name, await asyncio.gather(*closings, return_exceptions=True), strict=True):
            if isinstance(outcome, Exception):
                log.error("a planner could not be closed", extra={"planner": name}, exc_info=outcome)
