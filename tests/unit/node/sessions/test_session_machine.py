"""A session as a state machine: every input in every state, without a node, a clock or Redis."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from aip_cluster.protocol import ClientMessage, ClientMessageType, Command, Result, ResultStatus, TaskStatus
from node.sessions.journal import Restored
from node.sessions.planners import Act, Call, Finish, Tokens
from node.sessions.platforms import platform_named
from node.sessions.session import (
    Device,
    Effect,
    End,
    Send,
    SessionMachine,
    Stage,
    Store,
)
from node.sessions.task_spec import TaskSpec
from shared_state.sessions import SessionState

OK = Result(status=ResultStatus.SUCCESS, result=1)
COMMANDS = [Command(tool_name="one", call_id="a"), Command(tool_name="two", call_id="b")]
STEP = Act([Call(c) for c in COMMANDS])
STEP_ID = "step-1"
COST = {"event": "plan"}


def machine(
    *, device_driven: bool = False, wants_tools: bool = False, echoes: bool = True, single: bool = False
) -> SessionMachine:
    """A session in NEW."""
    spec = TaskSpec(
        session_id="s1",
        client_id="d1",
        task_name="job",
        request="do it",
        planner="direct",
        timeout_s=30.0,
        commands=COMMANDS,
        response_id="task-1",
    )
    device = Device(echoes, single, recognises_repeats=True, command_limit_s=5.0)
    return SessionMachine(spec, platform_named("linux"), device, device_driven=device_driven, wants_tools=wants_tools)


def said(status: TaskStatus = TaskStatus.COMPLETED, *results: Result, to: str = STEP_ID) -> ClientMessage:
    """What a device says."""
    return ClientMessage(
        type=ClientMessageType.COMMAND_RESULTS,
        status=status,
        session_id="s1",
        prev_response_id=to,
        action_results=list(results) or None,
    )


Input = Callable[[SessionMachine], Sequence[Effect] | None]
START: Input = lambda m: m.start(stored=False)  # noqa: E731 - a table of one-line inputs
START_STORED: Input = lambda m: m.start(stored=True)  # noqa: E731
ECHO: Input = lambda m: m.echo()  # noqa: E731
ECHO_LATE: Input = lambda m: m.echo_late()  # noqa: E731
PLANNED: Input = lambda m: m.planned(STEP, STEP_ID, None)  # noqa: E731
PLANNED_END: Input = lambda m: m.planned(Finish(7), "x", None)  # noqa: E731
PLANNED_END_AT_A_COST: Input = lambda m: m.planned(Finish(7, tokens=Tokens(1, 1)), "x", COST)  # noqa: E731
STORED: Input = lambda m: m.stored(2.0)  # noqa: E731
RESULTS: Input = lambda m: m.results(said(TaskStatus.COMPLETED, OK, OK), 3.0)  # noqa: E731
RESULTS_OF_NOTHING: Input = lambda m: m.results(said(TaskStatus.COMPLETED, OK, to="else"), 3.0)  # noqa: E731
PROGRESS: Input = lambda m: m.results(said(TaskStatus.CONTINUE), 3.0)  # noqa: E731
DEVICE_ENDED: Input = lambda m: m.device_ended(said(TaskStatus.FAILED))  # noqa: E731
NOT_AN_END: Input = lambda m: m.device_ended(said(TaskStatus.CONTINUE))  # noqa: E731
DEADLINE: Input = lambda m: m.deadline()  # noqa: E731
FAILED: Input = lambda m: m.failed("too large")  # noqa: E731
UNANSWERED: Input = lambda m: m.unanswered(5.0)  # noqa: E731


def stopped(m: SessionMachine) -> Sequence[Effect]:
    """The socket broke, or the session ended elsewhere."""
    m.stopped()
    return ()


# How to come to each state: of a session that a planner of the node drives, and of one that its device drives.
WAY: dict[Stage, list[Input]] = {
    Stage.NEW: [],
    Stage.HANDED_OVER: [START],
    Stage.PLANNING: [START, ECHO],
    Stage.STORING_STEP: [START, ECHO, PLANNED],
    Stage.STORING_PLAN: [START, ECHO, PLANNED_END_AT_A_COST],
    Stage.ON_DEVICE: [START, ECHO, PLANNED, STORED],
    Stage.OVER: [START, DEADLINE],
}
DEVICE_WAY: dict[Stage, list[Input]] = {
    Stage.NEW: [],
    Stage.HANDED_OVER: [START],
    Stage.DEVICE_WORKS: [START, PROGRESS],
    Stage.OVER: [START, DEADLINE],
}


@dataclass
class Row:
    """An input in a state: the state afterwards, and the kinds of effects. None: nothing waits for it."""

    stage: Stage
    input: Input
    then: Stage
    effects: str | None = ""
    device_driven: bool = False
    wants_tools: bool = False


S = Stage
PLANNED_ROWS = [
    Row(S.NEW, START, S.HANDED_OVER, "SendTask NoteDispatched AwaitEcho"),
    Row(S.NEW, START_STORED, S.HANDED_OVER, "SendTask AwaitEcho"),
    Row(S.HANDED_OVER, START, S.HANDED_OVER),
    Row(S.HANDED_OVER, ECHO, S.PLANNING, "Plan"),
    Row(S.HANDED_OVER, ECHO_LATE, S.PLANNING, "Plan"),
    Row(S.HANDED_OVER, RESULTS, S.HANDED_OVER, None),
    Row(S.PLANNING, ECHO_LATE, S.PLANNING),
    Row(S.PLANNING, PLANNED, S.STORING_STEP, "Store"),
    Row(S.PLANNING, PLANNED_END, S.OVER, "End"),
    Row(S.PLANNING, PLANNED_END_AT_A_COST, S.STORING_PLAN, "Store"),
    Row(S.PLANNING, RESULTS, S.PLANNING, None),
    Row(S.STORING_PLAN, STORED, S.OVER, "End"),
    Row(S.STORING_STEP, STORED, S.ON_DEVICE, "Send"),
    Row(S.STORING_STEP, RESULTS, S.STORING_STEP, None),
    Row(S.STORING_STEP, UNANSWERED, S.STORING_STEP),
    Row(S.STORING_STEP, PLANNED, S.STORING_STEP),
    Row(S.ON_DEVICE, RESULTS, S.PLANNING, "Note Plan"),
    Row(S.ON_DEVICE, RESULTS, S.STORING_RESULTS, "Store", wants_tools=True),
    Row(S.ON_DEVICE, RESULTS_OF_NOTHING, S.ON_DEVICE, None),
    Row(S.ON_DEVICE, UNANSWERED, S.OVER, "End"),
    Row(S.ON_DEVICE, STORED, S.ON_DEVICE),
]
DEVICE_ROWS = [
    Row(S.NEW, START, S.HANDED_OVER, "SendTask NoteDispatched"),
    Row(S.NEW, PROGRESS, S.DEVICE_WORKS, "Store"),
    Row(S.HANDED_OVER, ECHO, S.HANDED_OVER),
    Row(S.HANDED_OVER, PROGRESS, S.DEVICE_WORKS, "Store"),
    Row(S.HANDED_OVER, RESULTS, S.OVER, "End"),
    Row(S.DEVICE_WORKS, PROGRESS, S.DEVICE_WORKS, "Note"),
    Row(S.DEVICE_WORKS, STORED, S.DEVICE_WORKS),
    Row(S.DEVICE_WORKS, START_STORED, S.DEVICE_WORKS),
    Row(S.DEVICE_WORKS, RESULTS, S.OVER, "End"),
]
EVERYWHERE = [
    Row(stage, happens, S.OVER, "" if stage is S.OVER or happens is stopped else "End", device_driven=driven)
    for driven, way in ((False, WAY), (True, DEVICE_WAY))
    for stage in way
    for happens in (DEVICE_ENDED, DEADLINE, FAILED, stopped)
]
IGNORED = [
    Row(S.OVER, happens, S.OVER, device_driven=driven)
    for driven in (False, True)
    for happens in (START, ECHO, ECHO_LATE, PLANNED, PLANNED_END, STORED, UNANSWERED, NOT_AN_END)
]
ROWS = [*PLANNED_ROWS, *(Row(**{**vars(r), "device_driven": True}) for r in DEVICE_ROWS), *EVERYWHERE, *IGNORED]


def kinds(effects: Sequence[Effect] | None) -> str | None:
    """Their kinds, in order."""
    return None if effects is None else " ".join(type(effect).__name__ for effect in effects)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.stage.name}-{r.then.name}-{r.effects}")
def test_transition(row: Row) -> None:
    m = machine(device_driven=row.device_driven, wants_tools=row.wants_tools)
    for step in (DEVICE_WAY if row.device_driven else WAY)[row.stage]:
        step(m)
    assert m.stage is row.stage
    assert kinds(row.input(m)) == row.effects
    assert m.stage is row.then


def test_a_device_that_does_not_repeat_the_task_is_sent_its_commands_at_once() -> None:
    assert kinds(machine(echoes=False).start(stored=False)) == "SendTask NoteDispatched Plan"


def test_a_step_is_stored_in_full_before_it_is_sent() -> None:
    m = machine(echoes=False)
    m.start(stored=False)
    (store,) = m.planned(STEP, STEP_ID, COST, ["shown"])
    assert isinstance(store, Store)
    assert store.state is SessionState.RUNNING
    assert [event["event"] for event in store.events] == ["plan", "commands"]
    assert store.journal[0]["act"]["response_id"] == STEP_ID
    (send,) = m.stored(1.0)
    assert isinstance(send, Send)
    assert (send.message.response_id, send.message.commands, send.message.limit_s) == (STEP_ID, COMMANDS, 10.0)


def test_results_that_were_not_stored_travel_with_the_next_step() -> None:
    m = machine(echoes=False)
    for happens in (START, PLANNED, STORED, RESULTS):
        happens(m)
    (store,) = m.planned(STEP, "step-2", None) or ()
    assert isinstance(store, Store)
    assert [next(iter(entry)) for entry in store.journal] == ["results", "act"]


def test_a_deadline_counts_over_whatever_connection_and_what_a_device_says_only_over_its_own() -> None:
    (deadline,) = machine().deadline()
    (ended,) = machine().device_ended(said(TaskStatus.COMPLETED))
    assert isinstance(deadline, End)
    assert isinstance(ended, End)
    assert (deadline.fenced, deadline.tell_device) == (False, True)
    assert (ended.fenced, ended.tell_device) == (True, False)


# -- taken over from another connection --------------------------------------------------------------------------------
def _adopted(restored: Restored, *, started: bool, **change: Any) -> tuple[SessionMachine, str | None]:
    m = machine(**change)
    return m, kinds(m.adopt(restored, started=started, now_s=1.0))


def test_an_unanswered_step_is_sent_again_under_its_id_without_being_stored_again() -> None:
    m = machine()
    (send,) = m.adopt(Restored(act=STEP, response_id=STEP_ID), started=True, now_s=1.0)
    assert isinstance(send, Send)
    assert send.message.response_id == STEP_ID
    assert m.stage is Stage.ON_DEVICE


def test_a_session_between_two_steps_asks_the_planner() -> None:
    assert _adopted(Restored(), started=True)[1] == "Plan"


def test_a_task_that_the_device_may_not_have_is_sent_again() -> None:
    assert _adopted(Restored(), started=False)[1] == "SendTask AwaitEcho"
    assert _adopted(Restored(), started=False, device_driven=True)[1] == "SendTask"
    assert _adopted(Restored(), started=True, device_driven=True)[1] == ""


# -- a step, message by message ----------------------------------------------------------------------------------------
def _sent(effects: Sequence[Effect] | None) -> str | None:
    (effect,) = effects or (None,)
    return effect.message.response_id if isinstance(effect, Send) else None


def test_a_device_of_the_documents_form_gets_one_command_a_message_and_none_after_a_failure() -> None:
    m = machine(echoes=False, single=True)
    m.start(stored=False)
    m.planned(STEP, STEP_ID, None)
    assert _sent(m.stored(1.0)) == f"{STEP_ID}.0"
    failure = Result(status=ResultStatus.FAILURE, error="no")
    assert kinds(m.results(said(TaskStatus.COMPLETED, failure, to=f"{STEP_ID}.0"), 2.0)) == "Note Plan"
    assert [r.status for r in m.task.turns[-1].results] == [ResultStatus.FAILURE, ResultStatus.SKIPPED]


def test_an_answer_that_comes_early_is_kept_for_its_turn() -> None:
    """A device that was away may answer the later message of a step before the first is repeated."""
    m = machine(single=True)
    assert _sent(m.adopt(Restored(act=STEP, response_id=STEP_ID), started=True, now_s=1.0)) == f"{STEP_ID}.0"
    assert m.results(said(TaskStatus.COMPLETED, OK, to=f"{STEP_ID}.1"), 2.0) == ()
    assert kinds(m.results(said(TaskStatus.COMPLETED, OK, to=f"{STEP_ID}.0"), 3.0)) == "Note Plan"
    assert [r.call_id for r in m.task.turns[-1].results] == ["a", "b"]


def test_fewer_results_than_commands_leave_the_rest_unknown() -> None:
    m = machine(echoes=False)
    for happens in (START, PLANNED, STORED):
        happens(m)
    m.results(said(TaskStatus.COMPLETED, OK), 2.0)
    assert [r.status for r in m.task.turns[-1].results] == [ResultStatus.SUCCESS, ResultStatus.FAILURE]
