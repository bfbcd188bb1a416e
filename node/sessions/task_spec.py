"""What a node tells another about a task: enough to run it without a look at the session's hash."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
from pydantic import TypeAdapter

from aip_cluster.protocol import Command
from shared_state.sessions import Session
from shared_state.task_record import StoredTask, stored_task_of

__all__ = ["TaskSpec", "commands_to_json"]


@dataclass(slots=True, kw_only=True)
class TaskSpec(StoredTask):
    """A task on its way to its device. Not to be changed."""

    commands: list[Command] = field(default_factory=list)

    @property
    def identity_ms(self) -> int | None:
        """When the session was created, where its id may be used again: an id that a client chose."""
        return self.created_ms if self.owner else None

    @property
    def mark(self) -> str:
        """Tells this session from all others, also from those that had its id before."""
        return f"{self.session_id}\n{self.created_ms}" if self.owner else self.session_id

    @classmethod
    def of(cls, session: Session) -> "TaskSpec":
        """The task of a stored session that has not ended. Raises ValueError if its commands cannot be read."""
        commands = _COMMANDS.validate_json(session.commands) if session.commands else []
        return cls(**stored_task_of(session), commands=commands)

    @classmethod
    def from_json(cls, raw: bytes) -> "TaskSpec":
        """The task that `task_json` wrote, on a node of this version or another: unknown fields are left out.

        Raises ValueError if `raw` is no task.
        """
        data = orjson.loads(raw)
        if not isinstance(data, dict) or data.get("commands"):
            return _SPEC.validate_json(raw)
        try:
            # Nodes believe each other: what holds no commands is taken as it is.
            return cls(**data)
        except TypeError:  # a field more, or less
            return _SPEC.validate_json(raw)


def commands_to_json(commands: Sequence[Command]) -> bytes:
    """The commands as JSON; nothing for none."""
    return orjson.dumps([c.model_dump(exclude_none=True) for c in commands]) if commands else b""


_SPEC = TypeAdapter(TaskSpec)
_COMMANDS = TypeAdapter(list[Command])
