"""Devices that are not UFO's: they work on their own, or speak the published documents' form."""

import pytest

from tests.integration.harness.cluster import Cluster, command
from tests.integration.harness.guests import Guests
from tests.integration.harness.patience import eventually

pytestmark = pytest.mark.integration


async def test_an_autonomous_device_reports_progress_that_everybody_can_read_and_then_its_result(
    cluster: Cluster, guests: Guests
) -> None:
    worker = await guests.autonomous(cluster.a)
    answer = await cluster.b.dispatch(worker.client_id)
    task = await worker.expect("task", session_id=answer["session_id"])

    await worker.report(task, "continue", "half way")
    await worker.report(task, "continue", "nearly there")

    async def progress() -> list[str]:
        steps = (await cluster.c.session(answer["session_id"]))["steps"]
        said = [step["results"][0]["result"] for step in steps if step["event"] == "progress"]
        return said if len(said) == 2 else []

    assert await eventually(progress, "the progress is visible") == ["half way", "nearly there"]
    assert await cluster.c.state_of(answer["session_id"]) == "running"

    await worker.report(task, "completed", "the answer")
    done = await cluster.c.done(answer["task_name"])

    assert (done["state"], done["result"][0]["result"]) == ("completed", "the answer")
    await worker.still_served()
    assert worker.count("command") == 0


async def test_an_autonomous_device_that_fails_says_why(cluster: Cluster, guests: Guests) -> None:
    worker = await guests.autonomous(cluster.a)
    answer = await cluster.b.dispatch(worker.client_id)

    await worker.report(await worker.expect("task"), "failed", None, error="the disk is full")

    done = await cluster.c.done(answer["task_name"])
    assert (done["state"], done["error"]) == ("failed", "the disk is full")


@pytest.mark.parametrize(
    ("status", "error", "state"), [("completed", None, "completed"), ("failed", "it broke", "failed")]
)
async def test_an_autonomous_device_may_end_its_task_with_task_end(
    cluster: Cluster, guests: Guests, status: str, error: str | None, state: str
) -> None:
    worker = await guests.autonomous(cluster.a)
    answer = await cluster.b.dispatch(worker.client_id)

    await worker.end(await worker.expect("task"), status, error=error)

    done = await cluster.c.done(answer["task_name"])
    assert (done["state"], done["error"]) == (state, error)


async def test_what_an_autonomous_device_says_after_the_end_changes_nothing(cluster: Cluster, guests: Guests) -> None:
    worker = await guests.autonomous(cluster.a)
    answer = await cluster.b.dispatch(worker.client_id)
    task = await worker.expect("task")

    await worker.report(task, "completed", "first")
    await worker.report(task, "failed", "second", error="late")
    await worker.end(task, "failed", error="later")
    await worker.still_served()

    done = await cluster.c.done(answer["task_name"])
    assert (done["state"], done["result"][0]["result"], done["error"]) == ("completed", "first", None)


async def test_an_autonomous_device_is_told_when_its_task_is_cancelled(cluster: Cluster, guests: Guests) -> None:
    worker = await guests.autonomous(cluster.a)
    answer = await cluster.b.dispatch(worker.client_id)
    await worker.expect("task")

    await cluster.c.cancel(answer["session_id"])

    assert (await worker.expect("task_end", session_id=answer["session_id"]))["status"] == "failed"


async def test_a_device_of_the_documents_gets_one_command_a_message_and_its_answers_are_matched(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.payload(cluster.a)

    answer = await cluster.b.dispatch(device.client_id, command("echo", n=1), command("echo", n=2))
    done = await cluster.c.done(answer["task_name"])

    assert done["state"] == "completed"
    assert [r["result"]["n"] for r in done["result"]] == [1, 2]
    first, second = await device.expect("command"), await device.expect("command")
    assert set(first) == {"type", "request_id", "timestamp", "payload"}
    assert first["payload"] == {"function": "echo", "arguments": {"n": 1}}
    assert first["request_id"] != second["request_id"]


async def test_a_device_of_the_documents_stops_at_the_first_failure(cluster: Cluster, guests: Guests) -> None:
    device = await guests.payload(cluster.a)

    answer = await cluster.b.dispatch(device.client_id, command("fail", error="denied"), command("echo"))
    done = await cluster.c.done(answer["task_name"])

    assert done["state"] == "failed"
    assert "denied" in done["error"]
    assert [r["status"] for r in done["result"]] == ["failure", "skipped"]
    assert [a["tool_name"] for a in device.executed] == ["fail"]


async def test_an_answer_to_a_request_that_was_never_made_is_dropped(cluster: Cluster, guests: Guests) -> None:
    device = await guests.payload(cluster.a)

    payload = {"status": "success", "data": "unasked"}
    await device.send({"type": "result", "request_id": "never-asked", "payload": payload})
    await device.still_served()

    answer = await cluster.b.dispatch(device.client_id, command("echo", n=1))
    assert (await cluster.c.done(answer["task_name"]))["result"][0]["result"] == {"n": 1}
