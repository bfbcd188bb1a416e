"""Whole runs, against a cluster with a real WebSocket and a real REST server whose devices follow a script."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aip_cluster.constellation import (
    ConnectionLost,
    ConstellationClient,
    PlanError,
    PlanRun,
    Report,
    parse_plan,
    run_plan,
)
from aip_cluster.constellation import attempt as attempt_module
from aip_cluster.constellation import client as client_module
from aip_cluster.constellation import device_channel as channel_module
from aip_cluster.constellation import runner as runner_module
from aip_cluster.constellation import scheduler as scheduler_module
from aip_cluster.constellation.records import TaskRecord
from tests.unit.aip_cluster.constellation.cluster import Cluster, Session, echo

PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_module, "LOOK_S", 0.02)
    monkeypatch.setattr(attempt_module, "UNKNOWN_S", 0.2)
    monkeypatch.setattr(runner_module, "DEVICES_S", 0.02)
    monkeypatch.setattr(scheduler_module, "PAUSE_S", 0.05)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as cluster:
        yield cluster


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ConstellationClient]:
    async with ConstellationClient(cluster.url, name="orchestra") as client:
        yield client


def task(name: str, *above: str, **fields: Any) -> dict[str, Any]:
    where: dict[str, Any] = {} if "device" in fields else {"needs": {}}
    return {"id": name, "request": f"do {name}", "depends_on": list(above), **where, **fields}


async def run(client: ConstellationClient, *tasks: dict[str, Any], **fields: Any) -> Report:
    async with asyncio.timeout(PATIENCE_S):
        return await run_plan(client, parse_plan({"name": "p", "tasks": list(tasks), **fields}))


def states(report: Report) -> dict[str, str]:
    return {task.task_id: task.state.value for task in report.tasks}


async def never(session: Session) -> None:
    await session.over.wait()


async def test_results_feed_later_tasks_in_words_and_with_their_types(
    cluster: Cluster, client: ConstellationClient
) -> None:
    async def work(session: Session) -> None:
        given = session.metadata.get("commands")
        session.end("completed", result=given or [{"result": {"stdout": "7 files\n", "sizes": [1, 2]}}])

    cluster.work = work
    cluster.join("d0")
    report = await run(
        client,
        task("a"),
        task(
            "b",
            "a",
            request="look at {{ tasks.a.result[0].result.stdout | trim }} in {{ vars.place }}",
            planner="direct",
            timeout_s=9,
            metadata={"root_name": "X"},
            commands=[
                {
                    "tool_name": "sort",
                    "parameters": {
                        "sizes": "{{ tasks.a.result[0].result.sizes }}",
                        "line": r"{{ tasks.a.result[-1].result.stdout | quote }} \{{ x }}",
                    },
                }
            ],
        ),
        vars={"place": "the cellar"},
    )
    assert report.succeeded
    second = next(s for s in cluster.sessions.values() if "@b." in s.session_id)
    assert second.request == "look at 7 files in the cellar"
    (command,) = second.metadata.pop("commands")
    assert command["parameters"] == {"sizes": [1, 2], "line": "'7 files\n' {{ x }}"}
    assert second.metadata == {"planner": "direct", "timeout_s": 9, "root_name": "X"}
    assert report.results["b"][0]["tool_name"] == "sort"
    assert second.task_name == f"galaxy/orchestra/{report.run_id}/b/1"


async def test_a_diamond_of_twelve_tasks_survives_the_loss_of_one_of_four_devices(
    cluster: Cluster, client: ConstellationClient
) -> None:
    """One device goes for good in the middle of the run; everything completes on the other three, in order."""
    ended: list[str] = []

    async def work(session: Session) -> None:
        name = session.request
        if session.device_id == "d2" and "d2" in cluster.devices:
            cluster.lose("d2")
            return
        await asyncio.sleep(0.01)
        ended.append(name)
        session.end("completed", result=name)

    cluster.work = work
    cluster.join("d0", "d1", "d2", "d3")
    middle = [f"m{n}" for n in range(10)]
    tasks = [
        task("top", device="d0"),
        *(task(name, "top", retries=2) for name in middle),
        task("bottom", *middle, device="d1"),
    ]
    for entry in tasks:
        entry["request"] = entry["id"]
    report = await run(client, *tasks)
    assert report.succeeded
    assert len(report.tasks) == 12
    assert ended[0] == "top"
    assert ended[-1] == "bottom"
    assert sorted(ended[1:-1]) == middle
    (lost,) = [t for t in report.tasks if t.maybe_ran]
    assert [a.ending for a in lost.attempts] == ["device_lost", "completed"]
    assert cluster.ran_on(lost.task_id)[0] == "d2"
    assert set(cluster.most_at_once.values()) == {1}


async def test_a_device_that_comes_during_the_run_is_used_and_slots_are_kept(
    cluster: Cluster, client: ConstellationClient
) -> None:
    full = asyncio.Event()

    async def work(session: Session) -> None:
        cluster.join("d1")
        # Nobody is done before the newcomer, too, has all that it can take.
        if cluster.most_at_once.total() == 4:
            full.set()
        await full.wait()
        await echo(session)

    cluster.work = work
    cluster.join("d0")
    report = await run(client, *(task(f"t{n}") for n in range(8)), device_slots=2)
    assert report.succeeded
    assert {t.device_id for t in report.tasks} == {"d0", "d1"}
    assert set(cluster.most_at_once.values()) == {2}


async def test_a_task_waits_for_its_device_to_return(cluster: Cluster, client: ConstellationClient) -> None:
    async def work(session: Session) -> None:
        if "@a." in session.session_id:
            cluster.lose("d1")
            asyncio.get_running_loop().call_later(0.2, cluster.join, "d1")
        await echo(session)

    cluster.work = work
    cluster.join("d0", "d1")
    report = await run(client, task("a", device="d0"), task("b", "a", device="d1"))
    assert report.succeeded
    assert report.task("b").duration_s < 20


async def test_a_device_that_does_not_return_fails_its_task_after_the_wait(
    cluster: Cluster, client: ConstellationClient
) -> None:
    async def work(session: Session) -> None:
        cluster.lose("d1")
        await echo(session)

    cluster.work = work
    cluster.join("d0", "d1")
    report = await run(client, task("a", device="d0"), task("b", "a", device="d1"), device_wait_s=0.1)
    assert states(report) == {"a": "completed", "b": "failed"}
    assert report.task("b").error == "device 'd1' was not connected within 0.1 s"


async def test_a_refused_registration_leads_to_another_device_and_did_not_run(
    cluster: Cluster, client: ConstellationClient
) -> None:
    cluster.refuse = lambda device_id: f"Target device '{device_id}' is not connected" if device_id == "d0" else None
    cluster.join("d0", "d1")
    report = await run(client, task("a"))
    assert report.succeeded
    assert [a.ending for a in report.task("a").attempts] == ["not_started", "completed"]
    assert not report.task("a").maybe_ran
    assert cluster.ran_on("a") == ["d1"]


async def test_a_failure_is_told_with_its_reason_and_stops_the_rest(
    cluster: Cluster, client: ConstellationClient
) -> None:
    async def work(session: Session) -> None:
        session.end("failed", error="no disk", result=["partly"])

    cluster.work = work
    cluster.join("d0")
    report = await run(client, task("a"), task("b", "a"), task("c"), max_parallel=1)
    assert report.status == "failed"
    assert states(report) == {"a": "failed", "b": "skipped", "c": "skipped"}
    assert (report.task("a").error, report.task("a").result) == ("no disk", ["partly"])
    assert report.results == {}
    assert len(cluster.sessions) == 1


@pytest.mark.parametrize(
    ("state", "error", "ending"),
    [
        ("timed_out", "Task timed out after 1 s", "timeout"),
        ("cancelled", "Task was cancelled on request", "cancelled"),
        ("failed", "Task was cancelled because target device disconnected, said the device", "failed"),
    ],
)
async def test_what_the_cluster_stored_decides_how_a_task_ended(
    cluster: Cluster, client: ConstellationClient, state: str, error: str, ending: str
) -> None:
    async def work(session: Session) -> None:
        session.end(state, error=error)

    cluster.work = work
    cluster.join("d0", "d1")
    report = await run(client, task("a", retries=1, retry_on=["device_lost"]))
    assert [a.ending for a in report.task("a").attempts] == [ending]
    assert report.task("a").maybe_ran is (state != "failed")


async def test_a_timeout_is_retried_on_another_device_where_the_task_says_so(
    cluster: Cluster, client: ConstellationClient
) -> None:
    async def work(session: Session) -> None:
        if len(cluster.sessions) == 1:
            session.end("timed_out", error="Task timed out after 1 s")
        await echo(session)

    cluster.work = work
    cluster.join("d0", "d1")
    report = await run(client, task("a", retries=1, retry_on=["timeout"]))
    assert report.succeeded
    assert len(set(cluster.ran_on("a"))) == 2


async def test_a_result_that_lacks_what_is_referred_to_fails_the_task_before_it_is_sent(
    cluster: Cluster, client: ConstellationClient
) -> None:
    cluster.join("d0")
    report = await run(client, task("a"), task("b", "a", request="{{ tasks.a.result.missing }}"))
    assert states(report) == {"a": "completed", "b": "failed"}
    assert "was not sent: {{ tasks.a.result.missing }}" in str(report.task("b").error)
    assert len(cluster.sessions) == 1


# -- the connection does not last ------------------------------------------------------------------------------------


async def test_a_task_whose_socket_breaks_is_followed_to_its_end_and_not_run_again(
    cluster: Cluster, client: ConstellationClient
) -> None:
    async def work(session: Session) -> None:
        if "@a." in session.session_id:
            await cluster.break_sockets()
            await asyncio.sleep(0.1)
        await echo(session)

    cluster.work = work
    cluster.join("d0")
    report = await run(client, task("a", retries=3), task("b", "a"))
    assert report.succeeded
    assert report.results == {"a": "do a", "b": "do b"}
    assert [len(t.attempts) for t in report.tasks] == [1, 1]


async def test_a_task_that_was_lost_with_its_socket_is_sent_again_under_its_own_session(
    cluster: Cluster, client: ConstellationClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.join("d0")
    broken: list[str] = []
    serve = cluster._serve

    async def lose_the_first(socket: Any, device_id: str, frame: dict[str, Any]) -> None:
        if not broken:
            broken.append(frame["session_id"])
            await socket.close(1012)
            return
        await serve(socket, device_id, frame)

    monkeypatch.setattr(cluster, "_serve", lose_the_first)
    report = await run(client, task("a"))
    assert report.succeeded
    assert [a.ending for a in report.task("a").attempts] == ["completed"]
    assert list(cluster.sessions) == broken


async def test_when_the_cluster_falls_silent_the_task_may_be_running_and_is_not_retried(
    cluster: Cluster, client: ConstellationClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "SILENCE_S", 0.1)
    monkeypatch.setattr(channel_module, "MEND_S", 0.1)

    async def work(session: Session) -> None:
        cluster.is_silent = True
        await cluster.break_sockets()
        await never(session)

    cluster.work = work
    cluster.join("d0", "d1")
    report = await run(client, task("a", retries=3, retry_on=["device_lost", "failed", "timeout"]))
    assert states(report) == {"a": "failed"}
    assert [a.ending for a in report.task("a").attempts] == ["unknown"]
    assert report.task("a").maybe_ran


async def test_a_task_without_an_end_is_cancelled_before_it_counts_as_timed_out(
    cluster: Cluster, client: ConstellationClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "GRACE_S", 0.0)
    cluster.work = never
    cluster.join("d0")
    report = await run(client, task("a", timeout_s=0.05))
    assert [a.ending for a in report.task("a").attempts] == ["timeout"]
    assert len(cluster.cancelled) == 1


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_cancelling_a_run_ends_its_sessions_in_the_cluster_and_starts_no_more(
    cluster: Cluster, client: ConstellationClient
) -> None:
    async def work(session: Session) -> None:
        if "@a." in session.session_id:
            await echo(session)
        await never(session)

    cluster.work = work
    cluster.join("d0", "d1")
    plan = parse_plan({"name": "p", "tasks": [task("a"), task("b", "a"), task("c", "a"), task("d", "b")]})
    plan_run = PlanRun(client, plan)
    running = asyncio.create_task(plan_run.run())
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(3):
            await cluster.arrived.get()
        plan_run.cancel()
        plan_run.cancel()
        report = await running
    assert report.status == "cancelled"
    assert states(report) == {"a": "completed", "b": "cancelled", "c": "cancelled", "d": "skipped"}
    assert sorted(s.partition("@")[2] for s in cluster.cancelled) == ["b.1", "c.1"]
    assert report.task("b").error == "the run was cancelled"
    assert report.task("b").maybe_ran


async def test_cancelling_the_coroutine_ends_the_sessions_too(cluster: Cluster, client: ConstellationClient) -> None:
    cluster.work = never
    cluster.join("d0")
    running = asyncio.create_task(run(client, task("a")))
    async with asyncio.timeout(PATIENCE_S):
        await cluster.arrived.get()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [s.state for s in cluster.sessions.values()] == ["cancelled"]


async def test_what_completed_while_it_was_cancelled_is_completed(
    cluster: Cluster, client: ConstellationClient
) -> None:
    plan_run: PlanRun

    async def work(session: Session) -> None:
        plan_run.cancel()
        await echo(session)

    cluster.work = work
    cluster.join("d0")
    plan_run = PlanRun(client, parse_plan({"name": "p", "tasks": [task("a"), task("b", "a")]}))
    async with asyncio.timeout(PATIENCE_S):
        report = await plan_run.run()
    assert states(report) == {"a": "completed", "b": "skipped"}
    assert report.results == {"a": "do a"}


async def test_a_task_that_cannot_be_cancelled_says_that_it_may_be_running(
    cluster: Cluster, client: ConstellationClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "CANCEL_S", 0.1)
    plan_run: PlanRun

    async def work(session: Session) -> None:
        cluster.is_silent = True
        plan_run.cancel()
        await never(session)

    cluster.work = work
    cluster.join("d0")
    plan_run = PlanRun(client, parse_plan({"name": "p", "tasks": [task("a")]}))
    async with asyncio.timeout(PATIENCE_S):
        report = await plan_run.run()
    assert states(report) == {"a": "cancelled"}
    assert "could not be cancelled on the device" in str(report.task("a").error)
    assert report.task("a").maybe_ran


async def test_a_run_cancelled_before_it_begins_sends_nothing(cluster: Cluster, client: ConstellationClient) -> None:
    cluster.join("d0")
    plan_run = PlanRun(client, parse_plan({"name": "p", "tasks": [task("a")]}))
    plan_run.cancel()
    report = await plan_run.run()
    assert states(report) == {"a": "skipped"}
    assert cluster.sessions == {}


# -- before anything is sent -----------------------------------------------------------------------------------------


async def test_a_plan_that_does_not_fit_the_fleet_is_refused_whole_before_anything_is_sent(
    cluster: Cluster, client: ConstellationClient
) -> None:
    cluster.join("d0")
    with pytest.raises(PlanError) as caught:
        await run(client, task("a"), task("b", device="nowhere"), task("c", needs={"platform": "windows"}))
    assert [(p.task, p.field) for p in caught.value.problems] == [("b", "device"), ("c", "needs")]
    assert cluster.sessions == {}


async def test_a_cluster_that_does_not_answer_is_a_lost_connection() -> None:
    async with ConstellationClient("ws://127.0.0.1:9", name="n") as client:
        with pytest.raises(ConnectionLost):
            await run(client, task("a"))


async def test_an_observer_hears_of_every_change_once(cluster: Cluster, client: ConstellationClient) -> None:
    cluster.join("d0")
    heard: list[tuple[str, str]] = []

    def observe(record: TaskRecord) -> None:
        heard.append((record.task.id, record.state.value))

    await run_plan(client, parse_plan({"name": "p", "tasks": [task("a"), task("b", "a")]}), observe=observe)
    assert [state for name, state in heard if name == "a"] == ["running", "completed"]
    assert [state for name, state in heard if name == "b"] == ["waiting", "running", "completed"]
