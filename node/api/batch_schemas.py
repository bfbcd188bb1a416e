"""The shapes of batches."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from node.sessions.globs import PATTERN_CHARS
from node.sessions.task_request import DispatchRequest, TaskFields
from shared_state.sessions import SessionState

__all__ = ["BatchAnswer", "BatchRequest", "BatchStarted", "ItemAnswer", "Selector"]

TASKS_BOUND = 1000
_COMMON = ("request", *TaskFields.model_fields)


class Selector(BaseModel):
    """Devices that are online and fit all that is given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    client_ids: list[Annotated[str, StringConstraints(max_length=PATTERN_CHARS)]] | None = Field(
        None,
        max_length=TASKS_BOUND,
        description="ids; up to 64 of them patterns, with `*`, `?` and `[…]`",
    )
    platform: str | None = None
    tags: list[str] | None = Field(None, max_length=64, description="every one of them")


class BatchRequest(TaskFields):
    """Either `tasks`, or a `selector` and one task for each device that it fits."""

    tasks: list[DispatchRequest] | None = Field(None, min_length=1, max_length=TASKS_BOUND)
    selector: Selector | None = None
    request: str | None = None
    window: int = Field(50, ge=1, le=TASKS_BOUND, description="most tasks under way at a time")

    def common_fields(self) -> list[str]:
        """Fields of the one task of a selector that were given."""
        return [name for name in _COMMON if getattr(self, name) is not None]

    def for_device(self, client_id: str) -> DispatchRequest:
        """The task for one device that the selector fits."""
        fields = {name: getattr(self, name) for name in _COMMON}
        return DispatchRequest.model_construct(
            client_id=client_id, task_name=None, **{**fields, "request": self.request or ""}
        )


class BatchStarted(BaseModel):
    """The batch is stored and under way."""

    batch_id: str
    expected: int


class ItemAnswer(BaseModel):
    """One task of a batch: `missing` was never sent, or cannot be told any more."""

    client_id: str
    task_name: str | None
    session_id: str | None
    status: Literal["waiting", "running", "done", "failed", "missing"]
    state: SessionState | None
    error: str | None


class BatchAnswer(BaseModel):
    """How a batch stands. `expected` is the sum of the five counts."""

    batch_id: str
    status: Literal["running", "done"]
    created_ms: int
    window: int
    expected: int
    waiting: int
    running: int
    done: int
    failed: int
    missing: int
    items: list[ItemAnswer]
