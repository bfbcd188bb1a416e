"""What a node tells another about a task: enough to run it without a look at the session's hash."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import TypeAdapter

from aip_cluster.protocol import Command
from shared_state.sessions import Session

__all__ = ["TaskSpec", "commands_to_json"]


@dataclass(slots=True)
class TaskSpec:
    """A task on its way to its device. `owner` is the client that asked ('' for REST). Not to be changed."""

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
    # Of the TASK message, the same however often it is sent: a device that recognises it takes the task once.
    response_id: str = ""
    created_ms: int = 0
    # Where the dispatch stands in its trace (W3C's traceparent), '' if it is in none.
    trace: str = ""

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
        """The order of a stored session that has not ended. Raises ValueError if its commands cannot be read."""
        return cls(
            session_id=session.session_id,
            client_id=session.client_id,
            task_name=session.task_name,
            request=session.request,
            planner=session.planner,
            owner=session.owner,
            deadline_ms=session.deadline_ms,
            timeout_s=session.timeout_s,
            commands=_COMMANDS.validate_json(session.commands) if session.commands else [],
            metadata=session.metadata,
            response_id=session.response_id,
            created_ms=session.created_ms,
            trace=session.trace,
        )

    @classmethod
    def from_json(cls, raw: bytes) -> "TaskSpec":
        """The order that `order_json` wrote, on a node of this version or another: unknown fields are left out.

        Raises ValueError if `raw` is no order.
        """
        data = orjson.loads(raw)
        if not isinstance(data, dict) or data.get("commands"):
            return _ORDER.validate_json(raw)
        try:
            # Nodes believe each other: what holds no commands is taken as it is.
            return cls(**data)
        except TypeError:  # a field more, or less
            return _ORDER.validate_json(raw)


def commands_to_json(commands: Sequence[Command]) -> bytes:
    """The commands as JSON; nothing for none."""
    return orjson.dumps([c.model_dump(exclude_none=True) for c in commands]) if commands else b""


_ORDER = TypeAdapter(TaskSpec)
_COMMANDS = TypeAdapter(list[Command])
