"""The contract of a planner.

A planner turns the task and what came out of it so far into the next commands, or the end. It holds no state between
calls: all it needs is in the `Task`, so that a session can be taken over by another node.

Others' planners are found by entry points of the group `aip_cluster.planners`: each names a callable that takes the
node's `Settings` and returns a `Planner`; the entry's name is the planner's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aip_cluster.protocol import Command, Result

__all__ = ["Act", "Call", "Finish", "Planner", "PlannerRefused", "Step", "Task", "Tokens", "Tool", "Turn"]


class PlannerRefused(Exception):
    """The planner cannot run the task; `str(error)` says what to change."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a planner's questions cost."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.prompt + other.prompt, self.completion + other.completion)

    @property
    def total(self) -> int:
        """Both together."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of the device, as it described it. Parameters that the node fills in are left out of the schema.

    `qualified`: the device tells tools of one name apart by `namespace.tool`; UFO's client knows bare names only.
    """

    name: str
    tool_type: str
    namespace: str
    description: str
    input_schema: dict[str, Any]
    agent_name: str | None = None
    qualified: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A command that the planner wants, or, with `refused`, one that makes no sense and is not sent."""

    command: Command
    agent_name: str | None = None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What was done in one step: the calls, a Result for each, and what the planner said with them."""

    calls: list[Call]
    results: list[Result]
    text: str = ""


@dataclass(slots=True)
class Task:
    """What a planner sees of a session. `time_left_s` is what remains of the session's time.

    `kept` is the planner's own: what it made of the task and need not make again at the next step. It is lost when
    another node takes the session over.
    """

    request: str
    platform: str
    prompt: str
    agent_name: str | None
    commands: list[Command]
    metadata: dict[str, Any]
    tools: list[Tool] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    tokens: Tokens = field(default_factory=Tokens)
    time_left_s: float = 0.0
    kept: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Act:
    """Make these calls next. `text` is what the planner said with them."""

    calls: list[Call]
    text: str = ""
    tokens: Tokens = field(default_factory=Tokens)


@dataclass(frozen=True, slots=True)
class Finish:
    """The task is over: with an error, or well."""

    result: Any = None
    error: str | None = None
    tokens: Tokens = field(default_factory=Tokens)
    # A model was asked for it, whether it answered or not.
    asked: bool = False


Step = Act | Finish


class Planner(Protocol):
    """One way to run a session."""

    name: str
    # The device works on its own: the node sends it the task and waits; `next` is never called.
    device_driven: bool
    # The device's tools are looked up before `next` is called.
    wants_tools: bool

    def check(self, *, commands: Sequence[Command], features: frozenset[str]) -> None:
        """Raise PlannerRefused unless this planner can run such a task on a device with these features."""

    async def next(self, task: Task) -> Step:
        """What to do now. Cancelling is safe. An exception fails the session."""

    async def close(self) -> None:
        """The node is going: give up connections."""
