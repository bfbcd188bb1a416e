"""What must be true after a run, each as a function from the evidence to its violations.

A violation names what it hinges on: the acknowledged writes whose loss would explain it, each as the time from its
cause to its first effect that a user saw. After a failover, a violation with such a span in a measured loss window is
not the cluster's: it is listed apart, as lost by failover, and counted. Nothing else is excused.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from devtools.chaos.evidence import Evidence, Reading
from devtools.chaos.ledger import TERMINAL, Deed, Execution, Outcome, Task

__all__ = ["CHECKS", "Verdict", "Violation", "judge"]


# From when to when, seconds since the run began.
Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold. `task` leads to the timeline; `hinges_on` are spans of writes, if any."""

    rule: str
    text: str
    task: Task | None = None
    hinges_on: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Violations, and those that a failover excuses."""

    violations: list[Violation]
    lost_by_failover: list[Violation]


def judge(evidence: Evidence) -> Verdict:
    """Run every check."""
    verdict = Verdict([], [])
    for check in CHECKS:
        for violation in check(evidence):
            excused = any(_lost_in(evidence, span) for span in violation.hinges_on)
            (verdict.lost_by_failover if excused else verdict.violations).append(violation)
    return verdict


# -- tasks -------------------------------------------------------------------------------------------------------------
def accepted_tasks_end_once(evidence: Evidence) -> Iterator[Violation]:
    """Every accepted task is one session with one terminal state and one result, the same on every node."""
    for task in evidence.ledger.of(Outcome.ACCEPTED):
        hinges = _writes_of(evidence, task)
        if len(task.sessions) > 1:
            text = f"{task.name} was accepted as {sorted(task.sessions)}"
            yield Violation("one session a task", text, task, (_acceptance(task),))
        readings = evidence.readings.get(task.name, [])
        if not readings:
            yield Violation("readable", f"{task.name} was accepted, and nobody could be asked about it", task)
            continue
        if missing := [r.node for r in readings if not r.state]:
            text = f"{task.name} was accepted, and is not known to {_listed(missing)}"
            yield Violation("readable", text, task, (_acceptance(task),))
        if open_at := [f"{r.node}: {r.state}" for r in readings if r.state and r.state not in TERMINAL]:
            yield Violation("ends", f"{task.name} never ended: {_listed(open_at)}", task, hinges)
        ends = {(r.state, r.digest, r.error) for r in readings if r.state in TERMINAL}
        if len(ends) > 1:
            text = f"{task.name} ended differently on different nodes: {sorted(map(str, ends))}"
            yield Violation("one end", text, task, hinges)


def unanswered_tasks_do_not_hang(evidence: Evidence) -> Iterator[Violation]:
    """A task whose sender was never answered may exist or not; but if it does, it has ended."""
    for task in evidence.ledger.of(Outcome.UNKNOWN):
        open_at = [
            f"{r.node}: {r.state}" for r in evidence.readings.get(task.name, []) if r.state and r.state not in TERMINAL
        ]
        if open_at:
            text = f"{task.name} (its dispatch was not answered) never ended: {_listed(open_at)}"
            yield Violation("ends", text, task)


def refused_tasks_leave_nothing(evidence: Evidence) -> Iterator[Violation]:
    """What was refused was not carried out, and is not there."""
    executed = {_task_name(execution) for execution in evidence.ledger.executions}
    for task in evidence.ledger.of(Outcome.REFUSED):
        if task.name in executed:
            yield Violation("refused is refused", f"{task.name} was refused, and carried out", task)
        there = [f"{r.node}: {r.state}" for r in evidence.readings.get(task.name, []) if r.state]
        if there:
            yield Violation("refused is refused", f"{task.name} was refused, and is there: {_listed(there)}", task)


def ends_do_not_change(evidence: Evidence) -> Iterator[Violation]:
    """Who has seen a terminal state sees the same state and result for ever."""
    for task in evidence.ledger.tasks.values():
        seen = [(s.at_s, (s.state, s.digest, s.error)) for s in task.sightings]
        final = {(r.state, r.digest, r.error) for r in evidence.readings.get(task.name, []) if r.state in TERMINAL}
        for (first_s, first), (_, later) in pairwise(seen):
            if first != later:
                hinges = (_end(evidence, task, first_s),)
                yield Violation("an end stays", f"{task.name} was {first}, then {later}", task, hinges)
        if seen and final and seen[-1][1] not in final:
            text = f"{task.name} was {seen[-1][1]}, and in the end {sorted(map(str, final))}"
            yield Violation("an end stays", text, task, (_end(evidence, task, seen[0][0]),))


def results_are_the_tasks_own(evidence: Evidence) -> Iterator[Violation]:
    """A completed task did everything it was to do, and its result is of its own doing."""
    effects = Counter(execution.effect for execution in evidence.ledger.executions)
    for task in evidence.ledger.tasks.values():
        completed = [r for r in evidence.readings.get(task.name, []) if r.state == "completed"]
        if not completed:
            continue
        if undone := [effect for effect in task.effects if not effects[effect]]:
            yield Violation("completed is done", f"{task.name} completed without {_listed(undone)}", task)
        if task.fails:
            yield Violation("a failure fails", f"{task.name} completed, though its command failed", task)
        if strange := [r.node for r in completed if not _speaks_of(r, task)]:
            yield Violation("own result", f"{task.name} has a result of something else on {_listed(strange)}", task)


def nothing_is_done_twice(evidence: Evidence) -> Iterator[Violation]:
    """No side effect happened twice, on any device: ours do not repeat, and to others nothing is sent again."""
    times = Counter(e.effect for e in evidence.ledger.executions)
    repeated = [e for e in evidence.ledger.executions if times[e.effect] > 1]
    for name, found in groupby(sorted(repeated, key=_task_name), key=_task_name):
        done = sorted(found, key=lambda execution: execution.at_s)
        task = evidence.ledger.tasks.get(name)
        what = [
            f"{e.effect} at {e.at_s:.2f} s by {e.device}, process {e.life}, for {e.response_id or '?'}" for e in done
        ]
        # A journal with a hole anywhere is followed wrongly; so is one where nobody knows any more that another process
        # came, and that what the one before was at had ended with it.
        came = [*_arrivals(evidence, done)] if done[0].life != done[-1].life else []
        hinges = (*(_writes_of(evidence, task) if task else ()), *_steps(evidence, name)[:-1], *came)
        yield Violation("once", f"{name} was carried out again: {'; '.join(what)}", task, hinges)


def constellations_are_told(evidence: Evidence) -> Iterator[Violation]:
    """Who asked for a task over AIP is told its end, as it is stored, once a connection; unless away for too long."""
    for task in evidence.ledger.of(Outcome.ACCEPTED):
        if not task.owner:
            continue
        readings = evidence.readings.get(task.name, [])
        states = {r.state for r in readings if r.state in TERMINAL}
        for told in task.told:
            if states and (told.status == "completed") != (states == {"completed"}):
                text = f"{task.name}: {task.owner} was told {told.status}, stored is {sorted(states)}"
                yield Violation("told the truth", text, task, _writes_of(evidence, task))
        for connection, times in Counter(t.connection for t in task.told).items():
            if times > 1:
                hinges = (*_writes_of(evidence, task), *((t.at_s, t.at_s) for t in task.told))
                text = f"{task.name}: told {times} times on connection {connection}"
                yield Violation("told once", text, task, hinges)
        if states and not task.told and task.via.startswith("AIP") and not _was_away(evidence, task):
            text = f"{task.name}: {task.owner} was never told its end"
            yield Violation("told", text, task, _writes_of(evidence, task))


def _was_away(evidence: Evidence, task: Task) -> bool:
    """Whether the task's owner was without a connection for longer than grace, after it had been accepted."""
    since_s: float | None = None
    for entry in evidence.ledger.entries:
        if entry.who != task.owner:
            continue
        if entry.deed is Deed.DISCONNECTED:
            since_s = entry.at_s
        elif entry.deed is Deed.CONNECTED and since_s is not None:
            if entry.at_s - since_s > evidence.grace_s and entry.at_s > (task.accepted_s or 0.0):
                return True
            since_s = None
    return since_s is not None and evidence.ledger.now_s - since_s > evidence.grace_s


# -- the cluster -------------------------------------------------------------------------------------------------------
def keys_have_lives_and_owners(evidence: Evidence) -> Iterator[Violation]:
    """No key without a time to live, none of an unknown kind, nothing left waiting for a client that is there."""
    tasks = {session_id: t for t in evidence.ledger.tasks.values() for session_id in (*t.sessions, t.session_id)}
    for finding in evidence.keys:
        task = tasks.get(finding.session_id) if finding.session_id else None
        hinges = _writes_of(evidence, task) if task else ()
        yield Violation("keys", f"{finding.key}: {finding.trouble}", task, hinges)


def registry_and_sockets_agree(evidence: Evidence) -> Iterator[Violation]:
    """Leases, registrations, lists of nodes and the sockets that clients hold say the same."""
    for found in evidence.disagreements:
        # Its last comings and goings are what may not be stored.
        moves = [e.at_s for e in evidence.ledger.entries if found.client and e.who == found.client and e.deed in _MOVES]
        yield Violation("one owner", found.text, hinges_on=tuple((at_s, at_s) for at_s in moves[-2:]))


def everything_works_again(evidence: Evidence) -> Iterator[Violation]:
    """Once all is mended, every device carries out a task."""
    for text in evidence.unserved:
        yield Violation("works again", text)


def unmodified_clients_hold_out(evidence: Evidence) -> Iterator[Violation]:
    """No client that gives up after its retries was driven to it."""
    for entry in evidence.ledger.entries:
        if entry.deed is Deed.GAVE_UP:
            yield Violation("nobody gives up", f"{entry.who} gave up at {entry.at_s:.1f} s {entry.text}")


def logs_are_clean(evidence: Evidence) -> Iterator[Violation]:
    """A node logs no error: outages are warnings."""
    lines = Counter((c.log, c.line.partition(" ")[2]) for c in evidence.complaints)
    for (log, line), times in lines.items():
        yield Violation("clean logs", f"{log}, {times} times: {line}")


def nothing_ends_by_itself(evidence: Evidence) -> Iterator[Violation]:
    """No process ended that was not told to, and who was told to ended in time."""
    for text in evidence.deserted:
        yield Violation("nobody deserts", text)


def memory_is_bounded(evidence: Evidence) -> Iterator[Violation]:
    """No node grew past the bound."""
    for name, largest in evidence.largest_memory.items():
        if largest > evidence.memory_bound:
            bound = evidence.memory_bound >> 20
            yield Violation("bounded memory", f"{name} grew to {largest >> 20} MiB, over {bound} MiB")


def the_run_was_sound(evidence: Evidence) -> Iterator[Violation]:
    """The run itself worked: otherwise its silence proves nothing."""
    for text in evidence.broken:
        yield Violation("sound run", text)
    if not any(evidence.ledger.of(Outcome.ACCEPTED)):
        yield Violation("sound run", "no task was accepted: nothing was tested")


_MOVES = {Deed.CONNECTED, Deed.DISCONNECTED}
CHECKS: tuple[Callable[[Evidence], Iterator[Violation]], ...] = (
    accepted_tasks_end_once,
    unanswered_tasks_do_not_hang,
    refused_tasks_leave_nothing,
    ends_do_not_change,
    results_are_the_tasks_own,
    nothing_is_done_twice,
    constellations_are_told,
    keys_have_lives_and_owners,
    registry_and_sockets_agree,
    everything_works_again,
    unmodified_clients_hold_out,
    logs_are_clean,
    nothing_ends_by_itself,
    memory_is_bounded,
    the_run_was_sound,
)


def _lost_in(evidence: Evidence, span: Span) -> bool:
    """Whether what was written some time in the span may have been lost by a failover."""
    return any(span[0] <= window.to_s and window.from_s <= span[1] for window in evidence.loss_windows)


def _writes_of(evidence: Evidence, task: Task) -> tuple[Span, ...]:
    """When something of the task was stored that its users know of: its acceptance, and its end."""
    ends = [*(s.at_s for s in task.sightings[:1]), *(t.at_s for t in task.told[:1])]
    return (_acceptance(task), *(_end(evidence, task, at_s) for at_s in ends))


def _acceptance(task: Task) -> Span:
    """When the session was stored: after it was asked for, and before that was answered, by whom soever."""
    return task.sent_s, max([task.accepted_s or task.sent_s, *task.unanswered_s])


def _end(evidence: Evidence, task: Task, seen_s: float) -> Span:
    """When the end was stored that was seen at `seen_s`: after the last thing that the task did."""
    worked_s = [at_s for at_s, _ in _steps(evidence, task.name) if at_s <= seen_s]
    return max([task.accepted_s or task.sent_s, *worked_s]), seen_s


def _steps(evidence: Evidence, name: str) -> list[Span]:
    """When the steps of a task were stored: each just before it was done."""
    return sorted((e.at_s, e.at_s) for e in evidence.ledger.executions if _task_name(e) == name)


def _arrivals(evidence: Evidence, done: list[Execution]) -> Iterator[Span]:
    """When it was stored that the device came, and what became of its sessions: between the first time and the last."""
    for entry in evidence.ledger.entries:
        if entry.deed is Deed.CONNECTED and entry.who == done[0].device and done[0].at_s < entry.at_s < done[-1].at_s:
            yield entry.at_s, entry.at_s


def _task_name(execution: Execution) -> str:
    return execution.effect.rpartition("#")[0]


def _speaks_of(reading: Reading, task: Task) -> bool:
    return all(effect in reading.text for effect in task.effects)


def _listed(items: list[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")
