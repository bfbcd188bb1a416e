"""The invariants of `scripts/chaos`: each is silent about a run in which it held, and speaks of one that broke it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from devtools.chaos.evidence import Complaint, Disagreement, Evidence, KeyFinding, Reading
from devtools.chaos.invariants import CHECKS, judge
from devtools.chaos.ledger import Deed, Entry, Ledger, Outcome, Task, digest_of
from devtools.chaos.replication import LossWindow

NODES = ("node-1", "node-2")
RESULT = [{"status": "success", "result": {"effect": "t#1"}}]


def a_task(name: str = "t", **changes: object) -> Task:
    task = Task(name=name, device="light-1", via="REST", effects=(f"{name}#1",), timeout_s=10.0, sent_s=0.0)
    for field, value in changes.items():
        setattr(task, field, value)
    return task


def readings(state: str = "completed", *, text: str = '{"effect":"t#1"}') -> list[Reading]:
    return [Reading(node, "s-1", state, digest_of(RESULT), None, text) for node in NODES]


def a_good_run() -> Evidence:
    """One task, accepted, carried out once, seen and read as completed everywhere."""
    ledger = Ledger()
    task = a_task()
    ledger.sent(task)
    ledger.accepted(task, "s-1", "nginx")
    ledger.executed("light-1", 1, "r-1", "t#1")
    ledger.saw(task, "nginx", "completed", RESULT, None)
    return Evidence(ledger, grace_s=8.0, readings={"t": readings()}, largest_memory={"node-1": 50}, memory_bound=100)


def rules(evidence: Evidence) -> list[str]:
    return [violation.rule for violation in judge(evidence).violations]


def the_task(evidence: Evidence) -> Task:
    return evidence.ledger.tasks["t"]


def told(evidence: Evidence, status: str, *, connection: int = 1) -> None:
    task = the_task(evidence)
    evidence.ledger.told(task, task.owner, connection, status, RESULT, None)


def orchestrated(evidence: Evidence) -> Evidence:
    """The same run, with a constellation that asked for the task and was told its end."""
    task = the_task(evidence)
    task.owner, task.via = "galaxy@light-1", "AIP galaxy"
    told(evidence, "completed")
    return evidence


def test_a_good_run_has_no_violation() -> None:
    assert rules(a_good_run()) == []
    assert rules(orchestrated(a_good_run())) == []


# -- one way to break each ---------------------------------------------------------------------------------------------
def not_known_to_one(evidence: Evidence) -> None:
    evidence.readings["t"][1] = Reading("node-2", "s-1", "", digest_of(None))


def never_read(evidence: Evidence) -> None:
    evidence.readings = {}


def runs_for_ever(evidence: Evidence) -> None:
    evidence.readings["t"] = readings("running")


def ends_differently(evidence: Evidence) -> None:
    evidence.readings["t"][1] = replace(evidence.readings["t"][1], digest="another")


def dispatched_twice(evidence: Evidence) -> None:
    evidence.ledger.accepted(the_task(evidence), "s-2", "node-1")


def unanswered_and_hanging(evidence: Evidence) -> None:
    evidence.ledger.sent(a_task("u"))
    evidence.readings["u"] = readings("dispatched")


def refused_and_done(evidence: Evidence) -> None:
    task = a_task("no")
    evidence.ledger.sent(task)
    evidence.ledger.refused(task, "nginx", "404")
    evidence.ledger.executed("light-1", 1, "r-2", "no#1")


def refused_and_there(evidence: Evidence) -> None:
    task = a_task("no")
    evidence.ledger.sent(task)
    evidence.ledger.refused(task, "nginx", "404")
    evidence.readings["no"] = readings("created", text="")


def end_changes(evidence: Evidence) -> None:
    evidence.ledger.saw(the_task(evidence), "node-2", "failed", None, "another end")


def end_is_taken_back(evidence: Evidence) -> None:
    evidence.ledger.saw(the_task(evidence), "node-2", "running", None, None)
    evidence.ledger.saw(the_task(evidence), "node-2", "completed", RESULT, None)


def final_end_is_another(evidence: Evidence) -> None:
    evidence.readings["t"] = [replace(r, state="failed", error="late") for r in readings()]


def completed_undone(evidence: Evidence) -> None:
    evidence.ledger.executions.clear()


def failure_completes(evidence: Evidence) -> None:
    the_task(evidence).fails = True


def result_of_another(evidence: Evidence) -> None:
    evidence.readings["t"] = [replace(r, text='{"effect":"x#1"}') for r in readings()]


def carried_out_twice(evidence: Evidence) -> None:
    evidence.ledger.executed("light-1", 1, "r-1", "t#1")


def carried_out_by_a_new_process(evidence: Evidence) -> None:
    evidence.ledger.executed("light-1", 2, "r-1", "t#1")


def never_told(evidence: Evidence) -> None:
    orchestrated(evidence)
    the_task(evidence).told.clear()


def told_twice(evidence: Evidence) -> None:
    told(orchestrated(evidence), "completed")


def told_a_lie(evidence: Evidence) -> None:
    orchestrated(evidence)
    the_task(evidence).told.clear()
    told(evidence, "failed")


def immortal_key(evidence: Evidence) -> None:
    evidence.keys = [KeyFinding("aip:x", "has no time to live")]


def two_owners(evidence: Evidence) -> None:
    evidence.disagreements = [Disagreement("light-1 is held by node-1 and node-2", "light-1")]


def does_not_work_again(evidence: Evidence) -> None:
    evidence.unserved = ["light-1: timed out"]


def ufo_gives_up(evidence: Evidence) -> None:
    evidence.ledger.note(Deed.GAVE_UP, "ufo-1")


def error_in_a_log(evidence: Evidence) -> None:
    evidence.complaints = [Complaint("node-1.1.log", "2026 ERROR asyncio: never retrieved")]


def process_ends(evidence: Evidence) -> None:
    evidence.deserted = ["node-1 was killed by SIGSEGV, which nobody told it to"]


def memory_grows(evidence: Evidence) -> None:
    evidence.largest_memory = {"node-1": 101}


def harness_breaks(evidence: Evidence) -> None:
    evidence.broken = ["load: KeyError"]


def nothing_accepted(evidence: Evidence) -> None:
    evidence.ledger.tasks.clear()


BREAKS: Sequence[tuple[Callable[[Evidence], None], str]] = (
    (not_known_to_one, "readable"),
    (never_read, "readable"),
    (runs_for_ever, "ends"),
    (ends_differently, "one end"),
    (dispatched_twice, "one session a task"),
    (unanswered_and_hanging, "ends"),
    (refused_and_done, "refused is refused"),
    (refused_and_there, "refused is refused"),
    (end_changes, "an end stays"),
    (end_is_taken_back, "an end stays"),
    (final_end_is_another, "an end stays"),
    (completed_undone, "completed is done"),
    (failure_completes, "a failure fails"),
    (result_of_another, "own result"),
    (carried_out_twice, "once"),
    (carried_out_by_a_new_process, "once"),
    (never_told, "told"),
    (told_twice, "told once"),
    (told_a_lie, "told the truth"),
    (immortal_key, "keys"),
    (two_owners, "one owner"),
    (does_not_work_again, "works again"),
    (ufo_gives_up, "nobody gives up"),
    (error_in_a_log, "clean logs"),
    (process_ends, "nobody deserts"),
    (memory_grows, "bounded memory"),
    (harness_breaks, "sound run"),
    (nothing_accepted, "sound run"),
)


@pytest.mark.parametrize(("break_it", "rule"), BREAKS, ids=[b.__name__ for b, _ in BREAKS])
def test_what_does_not_hold_is_a_violation(break_it: Callable[[Evidence], None], rule: str) -> None:
    evidence = a_good_run()
    break_it(evidence)
    assert rule in rules(evidence)


def test_every_check_can_fail() -> None:
    """No check is left out of the table above."""
    speaking = set()
    for break_it, _ in BREAKS:
        evidence = a_good_run()
        break_it(evidence)
        speaking |= {check.__name__ for check in CHECKS if any(check(evidence))}
    assert speaking == {check.__name__ for check in CHECKS}


# -- what is no violation ----------------------------------------------------------------------------------------------
def test_a_constellation_that_was_away_for_too_long_reads_its_end_itself() -> None:
    evidence = orchestrated(a_good_run())
    ledger, task = evidence.ledger, the_task(evidence)
    task.told.clear()
    evidence.grace_s = 0.0
    ledger.note(Deed.DISCONNECTED, task.owner)
    ledger.note(Deed.CONNECTED, task.owner)
    assert rules(evidence) == []


def test_an_end_may_be_told_again_on_another_connection() -> None:
    """The socket broke between the delivery and its confirmation."""
    evidence = orchestrated(a_good_run())
    told(evidence, "completed", connection=2)
    assert rules(evidence) == []


def test_an_unanswered_task_that_does_not_exist_is_none() -> None:
    evidence = a_good_run()
    evidence.ledger.sent(a_task("u"))
    evidence.readings["u"] = [Reading(node, "", "", digest_of(None)) for node in NODES]
    assert rules(evidence) == []


# -- failovers ---------------------------------------------------------------------------------------------------------
def lost(evidence: Evidence, accepted_s: float) -> Evidence:
    """The run with its task gone, and a failover from second 4 to second 5."""
    the_task(evidence).sent_s, the_task(evidence).accepted_s = accepted_s - 0.05, accepted_s
    the_task(evidence).sightings.clear()
    evidence.readings["t"] = [Reading(node, "s-1", "", digest_of(None)) for node in NODES]
    evidence.loss_windows = [LossWindow(4.0, 5.0, "redis-1 took over")]
    return evidence


def test_a_task_accepted_in_the_window_of_a_failover_is_counted_as_lost_by_it() -> None:
    verdict = judge(lost(a_good_run(), accepted_s=4.5))
    assert verdict.violations == []
    assert [v.rule for v in verdict.lost_by_failover] == ["readable"]


@pytest.mark.parametrize(("came_s", "violated"), [(4.5, []), (7.0, ["once"])])
def test_a_process_whose_coming_was_lost_may_be_taken_for_the_one_before(came_s: float, violated: list[str]) -> None:
    """It was told to do again what its predecessor did: that is excused only if its coming fell into the window."""
    evidence = a_good_run()
    evidence.loss_windows = [LossWindow(4.0, 5.0, "redis-1 took over")]
    evidence.ledger.entries.append(Entry(came_s, Deed.CONNECTED, "light-1"))
    evidence.ledger.executed("light-1", 2, "r-1", "t#1", at_s=9.0)
    assert rules(evidence) == violated


@pytest.mark.parametrize("accepted_s", [3.9, 5.1])
def test_a_task_accepted_outside_of_the_window_is_a_violation(accepted_s: float) -> None:
    verdict = judge(lost(a_good_run(), accepted_s))
    assert [v.rule for v in verdict.violations] == ["readable"]
    assert verdict.lost_by_failover == []


def test_a_task_that_was_asked_for_before_the_window_and_answered_after_it_may_be_lost_by_it() -> None:
    evidence = lost(a_good_run(), accepted_s=5.5)
    the_task(evidence).sent_s = 3.5
    assert judge(evidence).violations == []


def test_a_failover_excuses_nothing_that_is_not_stored() -> None:
    evidence = lost(a_good_run(), accepted_s=4.5)
    evidence.complaints = [Complaint("node-1.1.log", "2026 ERROR asyncio: never retrieved")]
    assert rules(evidence) == ["clean logs"]


# -- the ledger --------------------------------------------------------------------------------------------------------
def test_the_timeline_of_a_task_has_its_own_entries_and_the_faults_beside_them() -> None:
    ledger, task, other = Ledger(), a_task(), a_task("other", device="light-2")
    ledger.sent(task)
    ledger.sent(other)
    ledger.note(Deed.DISCONNECTED, "light-1")
    ledger.note(Deed.DISCONNECTED, "light-2")
    ledger.note(Deed.FAULT, "node-1", text="node-kill node-1")
    deeds = [(entry.deed, entry.who) for entry in ledger.timeline(task)]
    assert deeds == [(Deed.SENT, "REST"), (Deed.DISCONNECTED, "light-1"), (Deed.FAULT, "node-1")]


def test_what_was_seen_before_is_not_remembered_again() -> None:
    ledger, task = Ledger(), a_task()
    ledger.sent(task)
    ledger.saw(task, "node-1", "running", None, None)
    for node in NODES:
        ledger.saw(task, node, "completed", RESULT, None)
    assert [s.state for s in task.sightings] == ["completed"]


def test_an_answer_makes_a_task_accepted_and_keeps_every_session_it_named() -> None:
    ledger, task = Ledger(), a_task()
    ledger.sent(task)
    ledger.unanswered(task, "nginx", "timeout")
    assert task.outcome is Outcome.UNKNOWN
    ledger.accepted(task, "s-1", "nginx")
    ledger.accepted(task, "s-1", "nginx")
    assert (task.outcome, task.sessions) == (Outcome.ACCEPTED, {"s-1"})
