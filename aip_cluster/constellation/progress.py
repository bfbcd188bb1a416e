"""What a person sees of a run: a table that changes on a terminal, a line for each event anywhere else.

Names and errors come from plans and devices: on a terminal they are shown as text, never as its control sequences.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TextIO

from aip_cluster.constellation.plan import Plan
from aip_cluster.constellation.records import FINAL, TaskRecord, TaskState

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["Lines", "Progress", "printable", "progress_for"]

ERROR_CHARS = 200
LATEST_ROWS = 30

_STYLES = {
    TaskState.WAITING: "dim",
    TaskState.READY: "yellow",
    TaskState.RUNNING: "cyan",
    TaskState.COMPLETED: "green",
    TaskState.FAILED: "bold red",
    TaskState.CANCELLED: "magenta",
    TaskState.SKIPPED: "dim",
}


def printable(text: str, limit: int = ERROR_CHARS) -> str:
    """The text on one line, without control characters, and not longer than `limit`."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return plain if len(plain) <= limit else f"{plain[: limit - 1]}…"


class Lines:
    """A line for each start and each end."""

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._began = clock()

    def __call__(self, record: TaskRecord) -> None:
        """A task has changed."""
        line = _line(record)
        if line is not None:
            print(f"[{self._clock() - self._began:7.1f} s] {line}", file=self._out, flush=True)

    def shown(self) -> AbstractContextManager[object]:
        """Lines need no setting up."""
        return nullcontext()


class Table:
    """A table with a row for each task, drawn by rich; with many tasks, those that matter now."""

    def __init__(self, plan: Plan, out: TextIO) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.live import Live  # noqa: PLC0415

        self._records: dict[str, TaskRecord] = {}
        self._changed: dict[str, float] = {task.id: float(-index) for index, task in enumerate(plan.tasks)}
        self._order = [task.id for task in plan.tasks]
        self._title = plan.name
        self._live = Live(get_renderable=self._draw, console=Console(file=out), refresh_per_second=4)

    def __call__(self, record: TaskRecord) -> None:
        """A task has changed."""
        self._records[record.task.id] = record
        self._changed[record.task.id] = time.monotonic()

    def shown(self) -> AbstractContextManager[object]:
        """While this is entered the table is on the screen."""
        return self._live

    def _draw(self) -> "RichTable":
        from rich.table import Table as RichTable  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        states = Counter(record.state for record in list(self._records.values()))
        total = len(self._order)
        done = sum(states[state] for state in FINAL)
        table = RichTable(title=Text(f"{self._title}: {done} of {total}"), expand=False)
        for heading in ("task", "state", "device", "try", "time", ""):
            table.add_column(heading, no_wrap=True, overflow="ellipsis")
        for record in self._rows():
            running = record.state is TaskState.RUNNING
            seconds = time.monotonic() - self._changed[record.task.id] if running else record.duration_s
            table.add_row(
                Text(record.task.id),
                Text(record.state.value, style=_STYLES[record.state]),
                Text(printable(record.device_id or "")),
                Text(str(len(record.attempts) or "")),
                Text(f"{seconds:.1f} s" if record.attempts else ""),
                Text(printable(record.error or "", 80)),
            )
        return table

    def _rows(self) -> Iterable[TaskRecord]:
        records = dict(self._records)
        running = {name for name, record in records.items() if record.state is TaskState.RUNNING}
        latest = sorted(records, key=lambda name: (name in running, self._changed[name]))[-LATEST_ROWS:]
        return [records[name] for name in self._order if name in set(latest)]


Progress = Lines | Table


def progress_for(plan: Plan, out: TextIO) -> Progress:
    """The table if `out` is a terminal and rich is installed, else lines."""
    if out.isatty():
        try:
            return Table(plan, out)
        except ModuleNotFoundError:
            pass
    return Lines(out)


def _line(record: TaskRecord) -> str | None:
    name, last = record.task.id, record.attempts[-1] if record.attempts else None
    error = printable(record.error or "")
    match record.state:
        case TaskState.RUNNING if last is not None:
            again = f" (attempt {last.number})" if last.number > 1 else ""
            return f"{name}: started on {printable(last.device_id)}{again}"
        case TaskState.READY if last is not None and last.outcome is not None:
            why = printable(last.outcome.error or "")
            return f"{name}: {last.outcome.ending.value} on {printable(last.device_id)}, to be tried again: {why}"
        case TaskState.COMPLETED:
            return f"{name}: completed after {record.duration_s:.1f} s"
        case TaskState.FAILED | TaskState.CANCELLED:
            unsure = " (it may have run)" if record.maybe_ran else ""
            return f"{name}: {record.state.value}{unsure}: {error}"
        case TaskState.SKIPPED:
            return f"{name}: skipped: {error}"
    return None
