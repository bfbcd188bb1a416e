"""What came of a run: every task's end, times, the critical path, as JSON and as a Mermaid picture."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from aip_cluster.constellation.plan import Plan
from aip_cluster.constellation.records import Attempt, TaskRecord, TaskState, session_id_of
from aip_cluster.constellation.scheduler import Scheduler

__all__ = ["AttemptReport", "Report", "TaskReport"]

_COLOURS = {
    TaskState.COMPLETED: "fill:#d3f2d9,stroke:#2e7d32,color:#111",
    TaskState.FAILED: "fill:#f9d4d4,stroke:#b3261e,color:#111",
    TaskState.CANCELLED: "fill:#fdebc8,stroke:#b26a00,color:#111",
    TaskState.SKIPPED: "fill:#e8e8e8,stroke:#757575,color:#555",
}


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """One attempt. Times are seconds since the run began."""

    number: int
    device_id: str
    session_id: str
    ending: str
    error: str | None
    maybe_ran: bool
    started_s: float
    ended_s: float

    @property
    def duration_s(self) -> float:
        """How long it took."""
        return self.ended_s - self.started_s


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One task. `waited_s` is from the moment it was ready to its first start."""

    task_id: str
    state: TaskState
    depends_on: list[str]
    device_id: str | None
    result: Any
    error: str | None
    maybe_ran: bool
    started_s: float | None
    ended_s: float | None
    waited_s: float | None
    duration_s: float
    attempts: list[AttemptReport] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Report:
    """A run that is over. `status` is `completed`, `failed` (some task did not complete) or `cancelled`."""

    plan: str
    run_id: str
    status: str
    began_at: str
    duration_s: float
    tasks: list[TaskReport]
    critical_path: list[str]

    @classmethod
    def of(cls, plan: Plan, scheduler: Scheduler, *, run_id: str, began_at: str, duration_s: float) -> "Report":
        """From the scheduler of a run that is over. Raises ValueError while a task is under way."""
        tasks = [_task(record, run_id) for record in scheduler.records.values()]
        completed = all(task.state is TaskState.COMPLETED for task in tasks)
        status = "completed" if completed else "cancelled" if scheduler.cancelled else "failed"
        return cls(plan.name, run_id, status, began_at, duration_s, tasks, _critical_path(tasks))

    @property
    def succeeded(self) -> bool:
        """Whether every task completed."""
        return self.status == "completed"

    @property
    def results(self) -> dict[str, Any]:
        """The results of the tasks that completed."""
        return {task.task_id: task.result for task in self.tasks if task.state is TaskState.COMPLETED}

    @property
    def counts(self) -> dict[str, int]:
        """How many tasks ended in each state."""
        states = (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED, TaskState.SKIPPED)
        return {state.value: sum(task.state is state for task in self.tasks) for state in states}

    def task(self, task_id: str) -> TaskReport:
        """The task of that id; KeyError if there is none."""
        found = next((task for task in self.tasks if task.task_id == task_id), None)
        if found is None:
            raise KeyError(task_id)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON-like values."""
        lasted = {task.task_id: task.duration_s for task in self.tasks}
        return {
            "plan": self.plan,
            "run_id": self.run_id,
            "status": self.status,
            "began_at": self.began_at,
            "duration_s": _rounded(self.duration_s),
            "counts": self.counts,
            "critical_path": {
                "tasks": self.critical_path,
                "duration_s": _rounded(sum(lasted[name] for name in self.critical_path)),
            },
            "devices": self._devices(),
            "tasks": [_task_dict(task) for task in self.tasks],
        }

    def to_json(self) -> str:
        """As indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_mermaid(self) -> str:
        """As a Mermaid flowchart: states by colour, devices and durations, the critical path in thick lines."""
        names = {task.task_id: f"t{index}" for index, task in enumerate(self.tasks)}
        on_path = set(pairwise(self.critical_path))
        lines = ["flowchart TD"]
        for task in self.tasks:
            lines.append(
                f'    {names[task.task_id]}["{"<br/>".join(map(_escaped, _label(task)))}"]:::{task.state.value}'
            )
        for task in self.tasks:
            for parent in task.depends_on:
                arrow = "==>" if (parent, task.task_id) in on_path else "-->"
                lines.append(f"    {names[parent]} {arrow} {names[task.task_id]}")
        used = {task.state for task in self.tasks}
        lines += [f"    classDef {state.value} {style}" for state, style in _COLOURS.items() if state in used]
        return "\n".join(lines) + "\n"

    def _devices(self) -> dict[str, Any]:
        found: dict[str, dict[str, Any]] = {}
        for attempt in (attempt for task in self.tasks for attempt in task.attempts):
            entry = found.setdefault(attempt.device_id, {"attempts": 0, "busy_s": 0.0})
            entry["attempts"] += 1
            entry["busy_s"] = _rounded(entry["busy_s"] + attempt.duration_s)
        return dict(sorted(found.items()))


def _task(record: TaskRecord, run_id: str) -> TaskReport:
    started, ready = record.started_s, record.ready_s
    return TaskReport(
        task_id=record.task.id,
        state=record.state,
        depends_on=list(dict.fromkeys(record.task.depends_on)),
        device_id=record.device_id,
        result=record.result,
        error=record.error,
        maybe_ran=record.maybe_ran,
        started_s=started,
        ended_s=record.ended_s,
        waited_s=None if started is None or ready is None else started - ready,
        duration_s=record.duration_s,
        attempts=[_attempt(attempt, record.task.id, run_id) for attempt in record.attempts],
    )


def _attempt(attempt: Attempt, task_id: str, run_id: str) -> AttemptReport:
    if attempt.outcome is None or attempt.ended_s is None:
        raise ValueError(f"attempt {attempt.number} of task {task_id!r} is under way")
    return AttemptReport(
        number=attempt.number,
        device_id=attempt.device_id,
        session_id=session_id_of(run_id, task_id, attempt.number),
        ending=attempt.outcome.ending.value,
        error=attempt.outcome.error,
        maybe_ran=attempt.outcome.maybe_ran,
        started_s=attempt.started_s,
        ended_s=attempt.ended_s,
    )


def _critical_path(tasks: Iterable[TaskReport]) -> list[str]:
    """The chain of dependencies that took longest, by the time each of its tasks took."""
    by_id = {task.task_id: task for task in tasks}
    longest: dict[str, tuple[float, str | None]] = {}
    todo = list(by_id)
    while todo:
        task = by_id[todo[-1]]
        missing = [parent for parent in task.depends_on if parent not in longest]
        if missing:
            todo.extend(missing)
            continue
        todo.pop()
        before = max(task.depends_on, key=lambda parent: longest[parent][0], default=None)
        longest[task.task_id] = (task.duration_s + (longest[before][0] if before is not None else 0.0), before)
    ran = [name for name, task in by_id.items() if task.started_s is not None]
    last = max(ran, key=lambda name: longest[name][0], default=None)
    path: list[str] = []
    while last is not None:
        path.append(last)
        last = longest[last][1]
    return path[::-1]


def _task_dict(task: TaskReport) -> dict[str, Any]:
    return {
        "id": task.task_id,
        "state": task.state.value,
        "depends_on": task.depends_on,
        "device": task.device_id,
        "result": task.result,
        "error": task.error,
        "maybe_ran": task.maybe_ran,
        "started_s": _rounded(task.started_s),
        "ended_s": _rounded(task.ended_s),
        "waited_s": _rounded(task.waited_s),
        "duration_s": _rounded(task.duration_s),
        "attempts": [
            {
                "number": attempt.number,
                "device": attempt.device_id,
                "session_id": attempt.session_id,
                "ending": attempt.ending,
                "error": attempt.error,
                "maybe_ran": attempt.maybe_ran,
                "started_s": _rounded(attempt.started_s),
                "duration_s": _rounded(attempt.duration_s),
            }
            for attempt in task.attempts
        ],
    }


def _label(task: TaskReport) -> list[str]:
    label = [task.task_id, task.state.value]
    if task.device_id is not None:
        tries = len(task.attempts)
        label += [task.device_id, f"{task.duration_s:.1f} s" + (f", {tries} attempts" if tries > 1 else "")]
    if task.maybe_ran:
        label.append("may have run more than once" if task.state is TaskState.COMPLETED else "may have run")
    return label


def _escaped(text: str) -> str:
    # Mermaid reads #…; as an entity and takes quotes, angle brackets and backticks for syntax.
    return "".join(char if char.isalnum() or char in " ._-/:,@+" else f"#{ord(char)};" for char in text)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
