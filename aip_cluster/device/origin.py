"""Where a command comes from, for the tools that must know.

The agent's own tools read `current_origin`; it reaches no other server, so that a session's id stays between the
cluster and the device.
"""

from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Origin", "current_origin"]


@dataclass(frozen=True, slots=True)
class Origin:
    """The session that a command belongs to, and the agent that it was sent in the name of."""

    session_id: str | None = None
    agent_name: str | None = None


_NOWHERE = Origin()

current_origin: ContextVar[Origin] = ContextVar("current_origin", default=_NOWHERE)
