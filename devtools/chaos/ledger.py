"""What happened in a run, as the users of the cluster know it: tasks, what became of them, and all else in order.

Written by devices, orchestrators, the REST load and the injectors, all of one event loop; read by the invariants when
the run is over. Times are seconds since the run began. Bounded by the length of the run: a few entries a task.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

__all__ = ["TERMINAL", "Deed", "Entry", "Execution", "Ledger", "Outcome", "Sighting", "Task", "Told", "digest_of"]

TERMINAL = frozenset({"completed", "failed", "cancelled", "timed_out"})


class Outcome(StrEnum):
    """What the sender of a task knows of its dispatch. Without an answer: `unknown`."""

    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    REFUSED = "refused"


class Deed(StrEnum):
    """What an entry tells of."""

    SENT = "sent"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNANSWERED = "unanswered"
    CANCEL = "cancel asked"
    EXECUTED = "executed"
    SEEN = "seen"
    TOLD = "told"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    NOT_ADMITTED = "not admitted"
    GAVE_UP = "gave up"
    FAULT = "FAULT"
    HEALED = "HEALED"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timeline. `who` is a device, an orchestrator, a node or a server; `task` the name of a task."""

    at_s: float
    deed: Deed
    who: str
    task: str = ""
    text: str = ""

    def __str__(self) -> str:
        return f"{self.at_s:9.3f}  {self.deed.value:<13} {self.who:<14} {self.text}".rstrip()


@dataclass(frozen=True, slots=True)
class Sighting:
    """A terminal state that somebody read: where, and a digest of its result."""

    at_s: float
    where: str
    state: str
    digest: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """A `task_end` that an orchestrator received; `connection` counts its sockets."""

    at_s: float
    connection: int
    status: str
    digest: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Execution:
    """A side effect on a device. `life` counts the device's processes: a new one remembers nothing."""

    at_s: float
    device: str
    life: int
    response_id: str
    effect: str


@dataclass(slots=True)
class Task:
    """One task as its sender meant it, however often it had to ask. `effects` are what it does, in order."""

    name: str
    device: str
    via: str
    effects: tuple[str, ...]
    timeout_s: float
    sent_s: float
    key: str | None = None
    fails: bool = False
    # Planned step by step by a model, instead of commands that come with the dispatch.
    planned: bool = False
    took_ms: int = 0
    owner: str = ""
    # Where the session's id is the sender's choice it is known before the answer.
    session_id: str = ""
    outcome: Outcome = Outcome.UNKNOWN
    accepted_s: float | None = None
    # What its sender was told when it was refused.
    refusal: str = ""
    # When requests were not answered: a later refusal may be about the repetition alone.
    unanswered_s: list[float] = field(default_factory=list)
    # Every session id that an answer named: more than one is a task that was dispatched twice.
    sessions: set[str] = field(default_factory=set)
    cancelled_s: float | None = None
    sightings: list[Sighting] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)


class Ledger:
    """Everything that is known of a run."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._began_at = time.time()
        self.tasks: dict[str, Task] = {}
        self.entries: list[Entry] = []
        self.executions: list[Execution] = []
        # Answers to dispatches by status or kind of failure, and other REST answers likewise.
        self.answers: dict[str, int] = {}

    @property
    def now_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def run_time_of(self, unix_s: float) -> float:
        """A time of the machine's clock in seconds since the run began."""
        return unix_s - self._began_at

    def note(self, deed: Deed, who: str, *, task: str = "", text: str = "") -> None:
        """Add to the timeline."""
        self.entries.append(Entry(self.now_s, deed, who, task, text))

    # -- the life of a task ----------------------------------------------------------------------------------------
    def sent(self, task: Task) -> None:
        """A task is about to be sent for the first time."""
        self.tasks[task.name] = task
        key = f" key={task.key}" if task.key else ""
        self.note(Deed.SENT, task.via, task=task.name, text=f"{task.name} to {task.device}{key}")

    def accepted(self, task: Task, session_id: str, where: str) -> None:
        """The task was answered with 200, or acknowledged."""
        task.outcome = Outcome.ACCEPTED
        task.accepted_s = task.accepted_s if task.accepted_s is not None else self.now_s
        task.sessions.add(session_id)
        self.note(Deed.ACCEPTED, where, task=task.name, text=f"session {session_id}")

    def refused(self, task: Task, where: str, why: str) -> None:
        """The cluster said that it does not take the task."""
        task.outcome, task.refusal = Outcome.REFUSED, why
        self.note(Deed.REFUSED, where, task=task.name, text=why)

    def unanswered(self, task: Task, where: str, why: str) -> None:
        """Whether the task was taken is not known (yet)."""
        task.unanswered_s.append(self.now_s)
        self.note(Deed.UNANSWERED, where, task=task.name, text=why)

    def cancelling(self, task: Task, where: str) -> None:
        """Somebody asks to cancel the task."""
        task.cancelled_s = task.cancelled_s if task.cancelled_s is not None else self.now_s
        self.note(Deed.CANCEL, where, task=task.name)

    def executed(self, device: str, life: int, response_id: str, effect: str, *, at_s: float | None = None) -> None:
        """A device carried out one command of a task, now unless said otherwise. Effects are `<task>#<number>`."""
        at_s = self.now_s if at_s is None else at_s
        self.executions.append(Execution(at_s, device, life, response_id, effect))
        text = f"{effect} for response {response_id or '?'}, process {life}"
        self.entries.append(Entry(at_s, Deed.EXECUTED, device, effect.rpartition("#")[0], text))

    def saw(
        self, task: Task, where: str, state: str, result: Any, error: str | None, *, asked_s: float | None = None
    ) -> None:
        """Somebody who asked at `asked_s` (absent: just now) read the task; what is terminal and news is remembered.

        Who had asked before an end was seen may well be answered that the task runs.
        """
        if state not in TERMINAL:
            if task.sightings and (asked_s is None or asked_s > task.sightings[0].at_s):
                self._remember(task, Sighting(self.now_s, where, state, "", error))
            return
        self._remember(task, Sighting(self.now_s, where, state, digest_of(result), error))

    def _remember(self, task: Task, sighting: Sighting) -> None:
        last = task.sightings[-1] if task.sightings else None
        if last and (last.state, last.digest, last.error) == (sighting.state, sighting.digest, sighting.error):
            return
        task.sightings.append(sighting)
        text = f"{sighting.state} {sighting.error or ''} [{sighting.digest}]"
        self.note(Deed.SEEN, sighting.where, task=task.name, text=text)

    def told(self, task: Task, who: str, connection: int, status: str, result: Any, error: str | None) -> None:
        """An orchestrator received a `task_end`."""
        task.told.append(Told(self.now_s, connection, status, digest_of(result), error))
        self.note(Deed.TOLD, who, task=task.name, text=f"{status} {error or ''} on connection {connection}")

    def count(self, what: str) -> None:
        """Count an answer."""
        self.answers[what] = self.answers.get(what, 0) + 1

    # -- reading ---------------------------------------------------------------------------------------------------
    def of(self, outcome: Outcome) -> Iterator[Task]:
        """The tasks with this outcome."""
        return (task for task in self.tasks.values() if task.outcome is outcome)

    def timeline(self, task: Task, *, around_s: float = 4.0) -> list[Entry]:
        """What concerns a task: its own entries, its device's connections and the faults that fell into its time."""
        own = [entry for entry in self.entries if entry.task == task.name]
        first, last = task.sent_s - around_s, (own[-1].at_s if own else task.sent_s) + around_s
        beside = {Deed.CONNECTED, Deed.DISCONNECTED, Deed.NOT_ADMITTED, Deed.GAVE_UP}
        parties = {task.device, task.owner}
        return [
            entry
            for entry in sorted(self.entries, key=lambda entry: entry.at_s)
            if entry.task == task.name
            or (
                first <= entry.at_s <= last
                and (entry.deed in {Deed.FAULT, Deed.HEALED} or (entry.deed in beside and entry.who in parties))
            )
        ]


def digest_of(result: Any) -> str:
    """A short name for a result: equal results have equal names."""
    if result is None:
        return "none"
    return hashlib.sha256(orjson.dumps(result, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
