"""Planners: who decides what a device does next. Adding one touches one new file, and its line in `registry`."""

from node.sessions.planners.base import Act, Call, Finish, Planner, PlannerRefused, Step, Task, Tokens, Tool, Turn
from node.sessions.planners.registry import AUTO, Planners

__all__ = [
    "AUTO",
    "Act",
    "Call",
    "Finish",
    "Planner",
    "PlannerRefused",
    "Planners",
    "Step",
    "Task",
    "Tokens",
    "Tool",
    "Turn",
]
