"""What a device that works on its own says of its work, as the session keeps it: nothing long in it."""

from typing import Any

from aip_cluster.protocol import ClientMessage, TaskStatus
from node.sessions.step import shortened
from shared_state.sessions import SessionState

__all__ = ["outcome_of", "progress_of"]


def progress_of(message: ClientMessage) -> dict[str, Any]:
    """The event that notes a report of progress."""
    event: dict[str, Any] = {"event": "progress"}
    if message.action_results:
        event["results"] = [shortened(r) for r in message.action_results]
    if message.messages:
        event["messages"] = message.messages
    return event


def outcome_of(message: ClientMessage) -> tuple[SessionState, Any, str | None]:
    """State, result and error of the end that a device reports."""
    completed = message.status is TaskStatus.COMPLETED
    result = message.result
    if result is None and message.action_results is not None:
        # Of plain values, but for the state: what it says is left out where it says nothing.
        result = [{name: value for name, value in vars(r).items() if value is not None} for r in message.action_results]
    error = None
    if not completed:
        failed = next((r.error for r in message.action_results or [] if r.error), None)
        error = message.error or failed or "The device reported a failure"
    state = SessionState.COMPLETED if completed else SessionState.FAILED
    return state, result, error
