"""The states of a session, as REST gives them and as they are stored.

A new terminal state belongs here and in `shared_state/scripts/_terminal.lua`; nothing else lists them.
"""

from enum import StrEnum

__all__ = ["TERMINAL", "SessionState"]


class SessionState(StrEnum):
    """Where a session stands."""

    CREATED = "created"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


# A session in one of these has ended, and stays in it.
TERMINAL = frozenset({SessionState.COMPLETED, SessionState.FAILED, SessionState.CANCELLED, SessionState.TIMED_OUT})
