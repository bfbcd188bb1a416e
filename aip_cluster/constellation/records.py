"""What is known about the tasks of a run: states, attempts, and how an attempt ended.

    waiting → ready → running → completed | failed | cancelled
                ↑________│  a retry, or a device that was gone before the task was sent
    waiting, ready → skipped

Times are seconds since the run began.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from aip_cluster.constellation.plan import Task

__all__ = ["FINAL", "Attempt", "Ending", "Outcome", "Start", "TaskRecord", "TaskState", "session_id_of"]


class TaskState(StrEnum):
    """Where a task stands."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


FINAL = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED, TaskState.SKIPPED})


class Ending(StrEnum):
    """How an attempt ended. `not_started`: the task never reached a device. `unknown`: the cluster stopped
    answering, and the task may be running still."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    DEVICE_LOST = "device_lost"
    NOT_STARTED = "not_started"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an attempt. `maybe_ran`: it is not known how far the device got."""

    ending: Ending
    result: Any = None
    error: str | None = None
    maybe_ran: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """An order of the scheduler: start this task on this device now."""

    task_id: str
    device_id: str
    attempt: int


@dataclass(slots=True)
class Attempt:
    """One try at a task, on one device."""

    number: int
    device_id: str
    started_s: float
    ended_s: float | None = None
    outcome: Outcome | None = None


@dataclass(slots=True)
class TaskRecord:
    """Everything about one task of a run. `error` says why it failed, was cancelled or was skipped."""

    task: Task
    state: TaskState = TaskState.WAITING
    attempts: list[Attempt] = field(default_factory=list)
    ready_s: float | None = None
    ended_s: float | None = None
    stranded_s: float | None = None
    result: Any = None
    error: str | None = None

    @property
    def final(self) -> bool:
        """Whether the task's state will not change any more."""
        return self.state in FINAL

    @property
    def tries(self) -> list[Attempt]:
        """The attempts that count: those that may have reached a device."""
        return [a for a in self.attempts if a.outcome is None or a.outcome.ending is not Ending.NOT_STARTED]

    @property
    def refusals(self) -> int:
        """How often the task could not be handed over at all."""
        return len(self.attempts) - len(self.tries)

    @property
    def tried(self) -> set[str]:
        """The devices that have had their try."""
        return {attempt.device_id for attempt in self.tries}

    @property
    def maybe_ran(self) -> bool:
        """Whether some attempt got to an unknown point on its device."""
        return any(attempt.outcome is not None and attempt.outcome.maybe_ran for attempt in self.attempts)

    @property
    def device_id(self) -> str | None:
        """The device of the last attempt."""
        return self.attempts[-1].device_id if self.attempts else None

    @property
    def started_s(self) -> float | None:
        """When the first attempt began."""
        return self.attempts[0].started_s if self.attempts else None

    @property
    def duration_s(self) -> float:
        """From the first start to the end, retries and what lay between them included."""
        if self.started_s is None or self.ended_s is None:
            return 0.0
        return self.ended_s - self.started_s


def session_id_of(run_id: str, task_id: str, attempt: int) -> str:
    """The session of an attempt: new to the cluster, since the run's id is."""
    return f"{run_id}@{task_id}.{attempt}"
