"""What a node tells another about a task: enough to run it without a look at the session's hash."""

from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import TypeAdapter

from aip import Command

__all__ = ["TaskOrder"]


@dataclass(frozen=True, slots=True)
class TaskOrder:
    """A task on its way to its device. `owner` is the client that asked ('' for REST)."""

    session_id: str
    client_id: str
    task_name: str
    request: str
    planner: str
    owner: str
    deadline_ms: int
    timeout_s: float
    commands: list[Command] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """One JSON object."""
        commands = [c.model_dump(exclude_none=True) for c in self.commands]
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "commands"}
        return orjson.dumps({**fields, "commands": commands})

    @classmethod
    def from_json(cls, raw: bytes) -> "TaskOrder":
        """The order that `to_json` wrote, on a node of this version or another: unknown fields are left out.

        Raises ValueError if `raw` is no order.
        """
        return _ORDER.validate_json(raw)


_ORDER = TypeAdapter(TaskOrder)
