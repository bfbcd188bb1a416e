"""The record of a task: what REST, batches and sockets ask for, what Redis stores, and what the bus carries.

A new field of a task is written down here, and in the request that callers fill in (`node/sessions/task_request.py`).
All that lies between takes the records as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

import orjson

__all__ = ["StoredTask", "TaskRecord", "stored_task_of", "task_fields", "task_json"]


@dataclass(slots=True, kw_only=True)
class TaskRecord:
    """What is asked of a device. `owner` is the client that asked, '' for REST. Not to be changed."""

    client_id: str
    request: str
    task_name: str
    planner: str
    timeout_s: float = 0.0
    owner: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class StoredTask(TaskRecord):
    """A task that has a session: with all that is known of it when it is dispatched, and never changes."""

    session_id: str
    created_ms: int = 0
    deadline_ms: int = 0
    # Of the TASK message, the same however often it is sent: a device that recognises it takes the task once.
    response_id: str = ""
    # Where its dispatch stands in a trace (W3C's traceparent), '' if it is in none.
    trace: str = ""


_STORED = tuple(f.name for f in fields(StoredTask))
_stored_of = attrgetter(*_STORED)


def task_fields(task: TaskRecord) -> dict[str, Any]:
    """What was asked for, by field. Written out, as below: on the way of every dispatch."""
    return {
        "client_id": task.client_id,
        "request": task.request,
        "task_name": task.task_name,
        "planner": task.planner,
        "timeout_s": task.timeout_s,
        "owner": task.owner,
        "metadata": task.metadata,
    }


def task_json(task: StoredTask, commands: bytes = b"") -> bytes:
    """The task as JSON: as it is stored, and, with its `commands` (JSON), as it travels."""
    written: dict[str, Any] = {
        "session_id": task.session_id,
        "client_id": task.client_id,
        "task_name": task.task_name,
        "request": task.request,
        "planner": task.planner,
        "owner": task.owner,
        "deadline_ms": task.deadline_ms,
        "timeout_s": task.timeout_s,
        "response_id": task.response_id,
        "created_ms": task.created_ms,
    }
    # Most tasks have none of these.
    if task.metadata:
        written["metadata"] = task.metadata
    if task.trace:
        written["trace"] = task.trace
    if commands:
        written["commands"] = orjson.Fragment(commands)
    return orjson.dumps(written)


def stored_task_of(given: Mapping[str, Any] | StoredTask) -> dict[str, Any]:
    """The fields of a task, from a record of it or from what `task_json` wrote; others are left out."""
    if isinstance(given, StoredTask):
        return dict(zip(_STORED, _stored_of(given), strict=True))
    return {name: given[name] for name in _STORED if name in given}
