"""The scheduler, against plans and misfortunes made up at random, and one decision at a time."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aip_cluster.constellation.devices import Device
from aip_cluster.constellation.graph import ancestors
from aip_cluster.constellation.plan import Needs, Plan, Task, check
from aip_cluster.constellation.records import FINAL, Ending, Outcome, Start, TaskState
from aip_cluster.constellation.scheduler import PAUSE_S, REFUSALS_BOUND, Scheduler

DEVICES = [Device(f"d{n}", platform="linux" if n % 2 else "windows") for n in range(4)]
RAN = {Ending.COMPLETED, Ending.FAILED, Ending.TIMEOUT, Ending.DEVICE_LOST, Ending.CANCELLED, Ending.UNKNOWN}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, 12))
    tasks = []
    for n in range(count):
        pinned = draw(st.booleans())
        where: dict[str, Any] = (
            {"device": f"d{draw(st.integers(0, 3))}"}
            if pinned
            else {"needs": Needs(platform=draw(st.sampled_from([None, "linux", "windows"])))}
        )
        tasks.append(
            Task(
                id=f"t{n}",
                request="x",
                depends_on=[f"t{p}" for p in draw(st.sets(st.integers(0, n - 1), max_size=3))] if n else [],
                retries=0 if pinned else draw(st.integers(0, 3)),
                retry_on=draw(st.lists(st.sampled_from(["device_lost", "failed", "timeout"]), unique=True)),
                on_failure=draw(st.sampled_from([None, "stop", "continue"])),
                **where,
            )
        )
    return check(
        Plan(
            name="p",
            tasks=draw(st.permutations(tasks)),
            on_failure=draw(st.sampled_from(["stop", "continue"])),
            max_parallel=draw(st.sampled_from([None, 1, 2, 5])),
            device_slots=draw(st.integers(1, 3)),
            device_wait_s=draw(st.sampled_from([0.0, 1.0, 30.0])),
        )
    )


class World:
    """Plays the runner's part and checks every promise after every step."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.scheduler = Scheduler(plan, DEVICES)
        self.now_s = 0.0
        self.under_way: list[Start] = []
        self.handed_over: Counter[str] = Counter()
        self.above = ancestors({task.id: task.depends_on for task in plan.tasks})
        self.ended: dict[str, TaskState] = {}

    def advance(self) -> None:
        for start in self.scheduler.advance(self.now_s):
            task = self.plan.task(start.task_id)
            assert not self.scheduler.cancelled
            assert not any(
                state in {TaskState.FAILED, TaskState.CANCELLED} and self.plan.stops_on_failure(self.plan.task(name))
                for name, state in self.ended.items()
            )
            assert start.task_id not in {other.task_id for other in self.under_way}
            assert start.task_id not in self.ended
            for parent in self.above[task.id]:
                assert self.scheduler.records[parent].state is TaskState.COMPLETED
            record = self.scheduler.records[task.id]
            earlier = [a for a in record.attempts[:-1] if a.outcome and a.outcome.ending in RAN]
            assert start.device_id not in {attempt.device_id for attempt in earlier}
            assert len(earlier) <= task.retries
            assert task.device in {None, start.device_id}
            self.under_way.append(start)
        self.check()

    def finish(self, index: int, ending: Ending) -> None:
        start = self.under_way.pop(index % len(self.under_way))
        self.scheduler.finish(start.task_id, start.attempt, Outcome(ending, error=ending.value), self.now_s)
        self.check()

    def check(self) -> None:
        loads = Counter(start.device_id for start in self.under_way)
        assert all(load <= self.plan.device_slots for load in loads.values())
        assert self.plan.max_parallel is None or len(self.under_way) <= self.plan.max_parallel
        running = {record.task.id for record in self.scheduler.running}
        assert running == {start.task_id for start in self.under_way}
        for name, record in self.scheduler.records.items():
            if name in self.ended:
                assert record.state is self.ended[name]
            elif record.state in FINAL:
                self.ended[name] = record.state
                assert record.ended_s is not None
                assert (record.error is None) == (record.state is TaskState.COMPLETED)


@given(plans(), st.data())
def test_every_promise_holds_in_every_world_and_every_run_ends(plan: Plan, data: st.DataObject) -> None:
    world = World(plan)
    steps = st.sampled_from(["finish", "finish", "finish", "time", "devices", "devices", "cancel"])
    for _ in range(data.draw(st.integers(0, 60))):
        world.advance()
        if world.scheduler.done:
            break
        match data.draw(steps):
            case "finish" if world.under_way:
                world.finish(data.draw(st.integers(0, 99)), data.draw(st.sampled_from(sorted(Ending))))
            case "time":
                world.now_s += data.draw(st.sampled_from([0.5, PAUSE_S, 20.0]))
            case "devices":
                world.scheduler.see_devices(data.draw(st.lists(st.sampled_from(DEVICES), unique=True)))
            case "cancel" if data.draw(st.integers(0, 9)) == 0:
                world.scheduler.cancel(world.now_s)
    # From here on nothing is done for the run but what its runner always does: attempts end, time passes.
    for _ in range(10_000):
        world.advance()
        if world.scheduler.done:
            break
        if world.under_way:
            world.finish(0, data.draw(st.sampled_from(sorted(Ending))))
        else:
            wake_s = world.scheduler.wake_s()
            assert wake_s is not None
            assert wake_s > world.now_s or world.plan.device_wait_s == 0
            world.now_s = max(world.now_s, wake_s)
            world.scheduler.see_devices(data.draw(st.lists(st.sampled_from(DEVICES), unique=True)))
    assert world.scheduler.done
    assert set(world.ended) == {task.id for task in plan.tasks}


@given(plans())
def test_where_nothing_goes_wrong_everything_completes_without_the_clock_moving(plan: Plan) -> None:
    world = World(plan)
    while not world.scheduler.done:
        world.advance()
        assert world.under_way
        world.finish(0, Ending.COMPLETED)
    assert set(world.ended.values()) == {TaskState.COMPLETED}


# -- one decision at a time ----------------------------------------------------------------------------------------


def scheduler(*tasks: Task, devices: int = 3, **fields: Any) -> Scheduler:
    return Scheduler(check(Plan(name="p", tasks=list(tasks), **fields)), [Device(f"d{n}") for n in range(devices)])


def anywhere(name: str, *above: str, **fields: Any) -> Task:
    return Task(id=name, request="x", needs=Needs(), depends_on=list(above), **fields)


def states(s: Scheduler) -> dict[str, str]:
    return {name: record.state.value for name, record in s.records.items()}


LOST = Outcome(Ending.DEVICE_LOST, error="gone", maybe_ran=True)
FAILED = Outcome(Ending.FAILED, error="broken")
DONE = Outcome(Ending.COMPLETED, result=1)


def test_a_failure_stops_what_has_not_started_and_lets_the_rest_finish() -> None:
    s = scheduler(anywhere("a"), anywhere("b"), anywhere("c", "a"), anywhere("d", "b"), devices=2)
    a, b = s.advance(0)
    s.finish(a.task_id, 1, FAILED, 1)
    assert states(s) == {"a": "failed", "b": "running", "c": "skipped", "d": "skipped"}
    assert "'a', which failed" in str(s.records["c"].error)
    assert "stopped because 'a' failed" in str(s.records["d"].error)
    s.finish(b.task_id, 1, DONE, 2)
    assert s.done
    assert s.records["b"].result == 1


def test_what_could_not_be_handed_over_when_the_run_stopped_is_skipped() -> None:
    s = scheduler(anywhere("a"), anywhere("b"), devices=2)
    s.advance(0)
    s.finish("a", 1, FAILED, 1)
    s.finish("b", 1, Outcome(Ending.NOT_STARTED, error="not connected"), 2)
    assert states(s) == {"a": "failed", "b": "skipped"}
    assert s.done


def test_with_continue_only_what_depends_on_the_failure_is_skipped() -> None:
    s = scheduler(
        anywhere("a"), anywhere("b"), anywhere("c", "a"), anywhere("d", "b"), anywhere("e", "c"), on_failure="continue"
    )
    s.advance(0)
    s.finish("a", 1, FAILED, 1)
    assert states(s) == {"a": "failed", "b": "running", "c": "skipped", "d": "waiting", "e": "skipped"}
    assert "'c', which was skipped" in str(s.records["e"].error)
    s.finish("b", 1, DONE, 2)
    assert [start.task_id for start in s.advance(2)] == ["d"]


def test_a_task_may_stop_a_run_that_otherwise_goes_on_and_the_other_way_round() -> None:
    s = scheduler(anywhere("a", on_failure="stop"), anywhere("b"), on_failure="continue", max_parallel=1)
    s.advance(0)
    s.finish("a", 1, FAILED, 1)
    assert states(s) == {"a": "failed", "b": "skipped"}
    s = scheduler(anywhere("a", on_failure="continue"), anywhere("b"), max_parallel=1)
    s.advance(0)
    s.finish("a", 1, FAILED, 1)
    assert [start.task_id for start in s.advance(1)] == ["b"]


def test_a_lost_task_goes_to_another_device_as_often_as_it_may() -> None:
    s = scheduler(anywhere("a", retries=1))
    (first,) = s.advance(0)
    s.finish("a", 1, LOST, 1)
    (second,) = s.advance(1)
    assert second.device_id != first.device_id
    s.finish("a", 2, LOST, 2)
    assert states(s) == {"a": "failed"}
    assert s.records["a"].maybe_ran


def test_a_failure_is_retried_only_where_the_task_says_so() -> None:
    s = scheduler(anywhere("a", retries=3), anywhere("b", retries=3, retry_on=["failed"]), on_failure="continue")
    s.advance(0)
    s.finish("a", 1, FAILED, 1)
    s.finish("b", 1, FAILED, 1)
    assert states(s) == {"a": "failed", "b": "ready"}
    s.advance(1)
    s.finish("b", 2, LOST, 1)
    assert states(s)["b"] == "failed"


@pytest.mark.parametrize("ending", [Ending.UNKNOWN, Ending.CANCELLED])
def test_what_may_be_running_or_was_cancelled_by_others_is_never_retried(ending: Ending) -> None:
    s = scheduler(anywhere("a", retries=3, retry_on=["device_lost", "failed", "timeout"]))
    s.advance(0)
    s.finish("a", 1, Outcome(ending, maybe_ran=True), 1)
    assert states(s)["a"] == ("failed" if ending is Ending.UNKNOWN else "cancelled")


def test_a_task_that_could_not_be_handed_over_is_placed_again_without_using_up_a_retry() -> None:
    s = scheduler(anywhere("a"), devices=2)
    (first,) = s.advance(0)
    s.finish("a", 1, Outcome(Ending.NOT_STARTED, error="not connected"), 0)
    (second,) = s.advance(0)
    assert second.device_id != first.device_id
    s.finish("a", 2, DONE, 1)
    assert states(s) == {"a": "completed"}
    assert not s.records["a"].maybe_ran


def test_a_device_that_always_refuses_is_given_up_after_some_pauses() -> None:
    s = scheduler(anywhere("a"), devices=1)
    starts = 0
    for now_s in range(0, 1000, int(PAUSE_S)):
        for start in s.advance(now_s):
            starts += 1
            s.finish("a", start.attempt, Outcome(Ending.NOT_STARTED, error="no"), now_s)
        s.see_devices([Device("d0")])
    assert starts == REFUSALS_BOUND + 1
    assert states(s) == {"a": "failed"}


def test_a_task_waits_for_its_device_to_come_back_but_not_for_ever() -> None:
    s = scheduler(Task(id="a", request="x", device="d0"), anywhere("b"), device_wait_s=10, on_failure="continue")
    s.see_devices([Device("d1")])
    assert [start.task_id for start in s.advance(0)] == ["b"]
    assert s.wants_devices
    assert s.wake_s() == 10
    s.see_devices([Device("d0")])
    assert [start.task_id for start in s.advance(9)] == ["a"]
    s = scheduler(Task(id="a", request="x", device="d0"), device_wait_s=10)
    s.see_devices([])
    s.advance(0)
    s.advance(10)
    assert states(s) == {"a": "failed"}
    assert s.records["a"].error == "device 'd0' was not connected within 10 s"
    assert s.records["a"].attempts == []


def test_a_busy_device_is_waited_for_without_a_limit() -> None:
    s = scheduler(anywhere("a"), anywhere("b"), devices=1, device_wait_s=0)
    assert len(s.advance(0)) == 1
    assert s.advance(10_000) == []
    s.finish("a", 1, DONE, 10_001)
    assert [start.task_id for start in s.advance(10_001)] == ["b"]


def test_a_cancelled_run_starts_nothing_and_calls_things_by_their_name() -> None:
    s = scheduler(anywhere("a"), anywhere("b"), anywhere("c", "a"), anywhere("d"), devices=3, max_parallel=3)
    s.advance(0)
    s.cancel(1)
    s.cancel(1)
    assert s.advance(1) == []
    s.finish("a", 1, DONE, 2)
    s.finish("b", 1, Outcome(Ending.CANCELLED, maybe_ran=True), 2)
    s.finish("d", 1, FAILED, 2)
    assert states(s) == {"a": "completed", "b": "cancelled", "c": "skipped", "d": "failed"}


def test_a_task_between_two_attempts_keeps_its_failure_when_the_run_stops() -> None:
    for cancel in (False, True):
        s = scheduler(anywhere("a", retries=1), anywhere("b"), devices=2)
        s.advance(0)
        s.finish("a", 1, LOST, 1)
        if cancel:
            s.cancel(2)
        else:
            s.finish("b", 1, FAILED, 2)
        assert s.records["a"].state is (TaskState.CANCELLED if cancel else TaskState.FAILED)
        assert "gone; not tried again" in str(s.records["a"].error)


def test_the_longest_chain_goes_first_and_what_has_one_place_to_go_before_what_has_many() -> None:
    s = scheduler(anywhere("short"), anywhere("long"), anywhere("next", "long"), max_parallel=1)
    assert [start.task_id for start in s.advance(0)] == ["long"]
    s = scheduler(anywhere("free"), Task(id="bound", request="x", device="d0"), devices=2)
    assert {start.task_id: start.device_id for start in s.advance(0)} == {"bound": "d0", "free": "d1"}


def test_tasks_are_spread_over_the_devices_and_slots_bound_them() -> None:
    s = scheduler(*(anywhere(f"t{n}") for n in range(7)), devices=3, device_slots=2)
    assert Counter(start.device_id for start in s.advance(0)) == {"d0": 2, "d1": 2, "d2": 2}


def test_an_end_is_taken_once_and_only_for_the_attempt_under_way() -> None:
    s = scheduler(anywhere("a"), anywhere("b", "a"))
    s.advance(0)
    for name, number in (("a", 2), ("b", 1)):
        with pytest.raises(ValueError, match="not under way"):
            s.finish(name, number, DONE, 1)
    s.finish("a", 1, DONE, 1)
    with pytest.raises(ValueError, match="not under way"):
        s.finish("a", 1, FAILED, 1)
    assert states(s)["a"] == "completed"
