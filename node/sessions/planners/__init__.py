"""Planners: who decides what a device does next. Adding one touches one new file and the table here."""

from collections.abc import Sequence

from aip import Command
from node.sessions.planners.base import Act, Finish, Planner, PlannerRefused, Step, Task, Turn
from node.sessions.planners.device import DevicePlanner
from node.sessions.planners.direct import DirectPlanner

__all__ = ["AUTO", "PLANNERS", "Act", "Finish", "Planner", "PlannerRefused", "Step", "Task", "Turn", "choose"]

PLANNERS: dict[str, Planner] = {p.name: p for p in (DirectPlanner(), DevicePlanner())}
AUTO = "auto"


def choose(name: str | None, *, commands: Sequence[Command], features: frozenset[str]) -> Planner:
    """The planner for a task on a device with `features`; None or `auto` picks the first that fits.

    Raises PlannerRefused, with a remedy, when none does.
    """
    if name not in {None, AUTO}:
        planner = PLANNERS[str(name)]
        planner.check(commands=commands, features=features)
        return planner
    for planner in PLANNERS.values():
        try:
            planner.check(commands=commands, features=features)
        except PlannerRefused:
            continue
        return planner
    raise PlannerRefused(
        "No planner can run this task: give 'commands' with the dispatch, or send it to a device that lists "
        "'autonomous' in system_info.supported_features"
    )
