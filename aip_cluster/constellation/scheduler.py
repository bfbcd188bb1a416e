"""Who runs what, and when: the decisions of a run, without any I/O and without a clock of its own.

`advance` says what to start, `finish` takes how it ended, `see_devices` who is connected. Promised, whatever the
order of the calls: a task starts after everything it depends on has completed, has at most one attempt under way, is
never started again once it has ended, and ends in exactly one final state; no device and no run has more under way
than the plan allows; as long as started attempts end and time passes, the run ends.

A device that lost a task, or could not be handed one, is left alone for `PAUSE_S`, since the cluster may list it for a
moment longer.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from aip_cluster.constellation.devices import Device, why_unfit
from aip_cluster.constellation.graph import heights
from aip_cluster.constellation.plan import Needs, Plan
from aip_cluster.constellation.records import FINAL, Attempt, Ending, Outcome, Start, TaskRecord, TaskState

__all__ = ["PAUSE_S", "REFUSALS_BOUND", "Scheduler"]

PAUSE_S = 2.0
# How often a task that could not be handed over is simply placed again; after that it counts as lost.
REFUSALS_BOUND = 5

# What a task must list in `retry_on` to be tried again after such an end.
_RETRY_WORDS: Mapping[Ending, str] = {
    Ending.DEVICE_LOST: "device_lost",
    Ending.NOT_STARTED: "device_lost",
    Ending.FAILED: "failed",
    Ending.TIMEOUT: "timeout",
}


class Scheduler:
    """The state of one run of a plan that has been checked."""

    def __init__(self, plan: Plan, devices: Iterable[Device]) -> None:
        self._plan = plan
        self.records: dict[str, TaskRecord] = {task.id: TaskRecord(task) for task in plan.tasks}
        parents = {task.id: list(dict.fromkeys(task.depends_on)) for task in plan.tasks}
        self._parents = parents
        self._children: dict[str, list[str]] = {name: [] for name in parents}
        for name, above in parents.items():
            for parent in above:
                self._children[parent].append(name)
        self._height = heights(parents)
        self._order = {name: index for index, name in enumerate(parents)}
        # Thousands of tasks have few different wishes: what fits is worked out once for each.
        self._wish = {task.id: task.device or (task.needs or Needs()).model_dump_json() for task in plan.tasks}
        self._in: dict[TaskState, dict[str, TaskRecord]] = {state: {} for state in TaskState}
        self._in[TaskState.WAITING] = dict(self.records)
        self._given: Counter[str] = Counter()
        self._devices = {device.device_id: device for device in devices}
        self._paused_until_s: dict[str, float] = {}
        self._stop_reason: str | None = None
        self.cancelled = False
        for name, above in parents.items():
            if not above:
                self._make_ready(self.records[name], 0.0)

    # -- what the runner asks --------------------------------------------------------------------------------------
    @property
    def done(self) -> bool:
        """Whether every task has its final state."""
        return not any(self._in[state] for state in TaskState if state not in FINAL)

    @property
    def running(self) -> list[TaskRecord]:
        """The tasks that are under way."""
        return list(self._in[TaskState.RUNNING].values())

    @property
    def wants_devices(self) -> bool:
        """Whether a device that appears now would be given something to do."""
        return self._places_left() > 0 and bool(self._in[TaskState.READY])

    def wake_s(self) -> float | None:
        """When to call `advance` again even if nothing happens; None for not at all."""
        ready = self._in[TaskState.READY].values()
        times = [record.stranded_s + self._plan.device_wait_s for record in ready if record.stranded_s is not None]
        if ready:
            times += self._paused_until_s.values()
        return min(times, default=None)

    # -- what happens ----------------------------------------------------------------------------------------------
    def see_devices(self, devices: Iterable[Device]) -> None:
        """The devices that are connected now, in place of those known so far."""
        self._devices = {device.device_id: device for device in devices}

    def advance(self, now_s: float) -> list[Start]:
        """The attempts to start now; they count as under way from here on."""
        self._paused_until_s = {name: until for name, until in self._paused_until_s.items() if until > now_s}
        candidates = self._candidates()
        for name, devices in candidates.items():
            if not self.records[name].final:
                self._mind_stranded(self.records[name], bool(devices), now_s)
        load = Counter(record.attempts[-1].device_id for record in self.running)
        starts: list[Start] = []
        # The longest chains first; among equals those with the fewest places to go to.
        for name in sorted(
            self._in[TaskState.READY], key=lambda n: (-self._height[n], len(candidates[n]), self._order[n])
        ):
            if self._places_left() <= 0 or not any(load[d] < self._plan.device_slots for d in self._devices):
                break
            free = [d for d in candidates[name] if load[d] < self._plan.device_slots]
            if free:
                device_id = min(free, key=lambda d: (load[d], self._given[d], d))
                load[device_id] += 1
                starts.append(self._start(self.records[name], device_id, now_s))
        return starts

    def finish(self, task_id: str, attempt: int, outcome: Outcome, now_s: float) -> None:
        """An attempt that `advance` ordered has ended. Raises ValueError for one that is not under way."""
        record = self.records[task_id]
        if record.state is not TaskState.RUNNING or record.attempts[-1].number != attempt:
            raise ValueError(f"attempt {attempt} of task {task_id!r} is not under way")
        last = record.attempts[-1]
        last.ended_s, last.outcome = now_s, outcome
        if outcome.ending in {Ending.DEVICE_LOST, Ending.NOT_STARTED}:
            self._devices.pop(last.device_id, None)
            self._paused_until_s[last.device_id] = now_s + PAUSE_S
        if outcome.ending is Ending.COMPLETED:
            record.result = outcome.result
            self._end(record, TaskState.COMPLETED, None, now_s)
        elif self.cancelled and outcome.ending not in {Ending.FAILED, Ending.TIMEOUT}:
            self._end(record, TaskState.CANCELLED, outcome.error or "the run was cancelled", now_s)
        elif outcome.ending is Ending.CANCELLED:
            self._end(record, TaskState.CANCELLED, outcome.error or "cancelled in the cluster", now_s)
        elif self._may_go_again(record, outcome):
            self._make_ready(record, now_s)
            if self._stop_reason is not None:
                self._give_up(record, now_s)
        else:
            record.result = outcome.result
            self._end(record, TaskState.FAILED, outcome.error or outcome.ending.value, now_s)

    def cancel(self, now_s: float) -> None:
        """Start nothing more. What is under way goes on until `finish` says how it ended. Safe to repeat."""
        self.cancelled = True
        self._stop("the run was cancelled", now_s)

    # -- decisions -------------------------------------------------------------------------------------------------
    def _candidates(self) -> dict[str, list[str]]:
        """For each task that is ready the connected devices that it could go to, busy or not."""
        fits: dict[str, list[str]] = {}
        found = {}
        for name, record in self._in[TaskState.READY].items():
            wish = self._wish[name]
            if wish not in fits:
                fits[wish] = [
                    device.device_id
                    for device in self._devices.values()
                    if device.device_id not in self._paused_until_s and why_unfit(device, record.task) is None
                ]
            tried = record.tried if record.attempts else ()
            found[name] = [device_id for device_id in fits[wish] if device_id not in tried] if tried else fits[wish]
        return found

    def _mind_stranded(self, record: TaskRecord, has_candidates: bool, now_s: float) -> None:
        if has_candidates:
            record.stranded_s = None
            return
        record.stranded_s = now_s if record.stranded_s is None else record.stranded_s
        if now_s < record.stranded_s + self._plan.device_wait_s:
            return
        waited = f"within {self._plan.device_wait_s:g} s"
        if record.tries:
            error = f"{self._last_error(record)}; no other device that fits was connected {waited}"
        elif record.task.device is not None:
            error = f"device {record.task.device!r} was not connected {waited}"
        else:
            error = f"no device that fits was connected {waited}"
        self._end(record, TaskState.FAILED, error, now_s)

    def _may_go_again(self, record: TaskRecord, outcome: Outcome) -> bool:
        if outcome.ending is Ending.NOT_STARTED and record.refusals <= REFUSALS_BOUND:
            return True
        word = _RETRY_WORDS.get(outcome.ending)
        if word not in record.task.retry_on or self._stop_reason is not None:
            return False
        # A task that was refused too often has used up a try as well.
        used = len(record.tries) + max(0, record.refusals - REFUSALS_BOUND)
        return used <= record.task.retries

    def _start(self, record: TaskRecord, device_id: str, now_s: float) -> Start:
        number = len(record.attempts) + 1
        record.attempts.append(Attempt(number, device_id, now_s))
        self._given[device_id] += 1
        self._move(record, TaskState.RUNNING)
        record.stranded_s = None
        return Start(record.task.id, device_id, number)

    def _make_ready(self, record: TaskRecord, now_s: float) -> None:
        self._move(record, TaskState.READY)
        if record.ready_s is None:
            record.ready_s = now_s

    def _end(self, record: TaskRecord, state: TaskState, error: str | None, now_s: float) -> None:
        self._move(record, state)
        record.error, record.ended_s, record.stranded_s = error, now_s, None
        name = record.task.id
        if state is TaskState.COMPLETED:
            for child in self._children[name]:
                below = self.records[child]
                parents = (self.records[parent].state for parent in self._parents[child])
                if below.state is TaskState.WAITING and all(parent is TaskState.COMPLETED for parent in parents):
                    self._make_ready(below, now_s)
            return
        self._skip_below(name, now_s)
        if state is not TaskState.SKIPPED and self._plan.stops_on_failure(record.task):
            self._stop(f"the run was stopped because {name!r} {_verb(state)}", now_s)

    def _skip_below(self, name: str, now_s: float) -> None:
        todo = [(name, child) for child in self._children[name]]
        while todo:
            parent, child = todo.pop()
            below = self.records[child]
            if not below.final:
                self._move(below, TaskState.SKIPPED)
                below.ended_s = now_s
                below.error = f"it depends on {parent!r}, which {_verb(self.records[parent].state)}"
                todo.extend((child, grandchild) for grandchild in self._children[child])

    def _stop(self, reason: str, now_s: float) -> None:
        if self._stop_reason is None:
            self._stop_reason = reason
        for record in [*self._in[TaskState.READY].values(), *self._in[TaskState.WAITING].values()]:
            if not record.final:
                self._give_up(record, now_s)

    def _give_up(self, record: TaskRecord, now_s: float) -> None:
        """End a task that is not under way and will not be started any more."""
        reason = self._stop_reason or ""
        if not record.tries:
            self._end(record, TaskState.SKIPPED, reason, now_s)
            return
        state = TaskState.CANCELLED if self.cancelled else TaskState.FAILED
        self._end(record, state, f"{self._last_error(record)}; not tried again, since {reason}", now_s)

    # -- small things ----------------------------------------------------------------------------------------------
    def _move(self, record: TaskRecord, state: TaskState) -> None:
        del self._in[record.state][record.task.id]
        record.state = state
        self._in[state][record.task.id] = record

    def _places_left(self) -> int:
        bound = self._plan.max_parallel
        return len(self.records) if bound is None else bound - len(self._in[TaskState.RUNNING])

    @staticmethod
    def _last_error(record: TaskRecord) -> str:
        outcome = record.attempts[-1].outcome
        return (outcome.error or outcome.ending.value) if outcome is not None else ""


def _verb(state: TaskState) -> str:
    return {TaskState.FAILED: "failed"}.get(state, f"was {state.value}")
