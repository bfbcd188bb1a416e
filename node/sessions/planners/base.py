"""The contract of a planner.

A planner turns the task and what came out of it so far into the next commands, or the end. It holds no state between
calls: all it needs is in the `Task`, so that a session can be taken over by another node.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aip import Command, Result

__all__ = ["Act", "Finish", "Planner", "PlannerRefused", "Step", "Task", "Turn"]


class PlannerRefused(Exception):
    """The planner cannot run the task; `str(error)` says what to change."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Commands that were sent together, and one Result for each."""

    commands: list[Command]
    results: list[Result]


@dataclass(slots=True)
class Task:
    """What a planner sees of a session."""

    request: str
    platform: str
    commands: list[Command]
    metadata: dict[str, Any]
    turns: list[Turn] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Act:
    """Send these commands next, as one message."""

    commands: list[Command]


@dataclass(frozen=True, slots=True)
class Finish:
    """The task is over: with an error, or well."""

    result: Any = None
    error: str | None = None


Step = Act | Finish


class Planner(Protocol):
    """One way to run a session."""

    name: str
    # The device works on its own: the node sends it the task and waits; `next` is never called.
    device_driven: bool

    def check(self, *, commands: Sequence[Command], features: frozenset[str]) -> None:
        """Raise PlannerRefused unless this planner can run such a task on a device with these features."""

    async def next(self, task: Task) -> Step:
        """What to do now. Cancelling is safe. An exception fails the session."""
