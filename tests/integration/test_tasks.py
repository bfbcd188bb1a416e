"""A task's way: asked for on one node, run on a device that another holds, read on a third."""

import asyncio

import pytest

from tests.integration.harness.cluster import Cluster, Json, Node, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import eventually, stays
from tests.integration.harness.ufo import UfoDevice

pytestmark = pytest.mark.integration

ECHO = command("echo", text="hello")


async def settled(device: UfoDevice, session_id: str) -> Json:
    """The `task_end` that the device gets."""
    return await device.expect("task_end", session_id=session_id)


async def only_session(node: Node, device: UfoDevice) -> Json:
    sessions = await node.sessions_of(device.client_id)
    assert len(sessions) == 1, sessions
    return sessions[0]


async def test_a_task_dispatched_on_one_node_runs_on_a_device_of_another_and_is_read_on_a_third(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a)
    task_name = unique("task")

    answer = await cluster.b.dispatch(device.client_id, ECHO, task_name=task_name)
    done = await cluster.c.done(task_name)

    assert answer["status"] == "dispatched"
    assert (answer["task_name"], answer["client_id"]) == (task_name, device.client_id)
    assert (done["state"], done["session_id"]) == ("completed", answer["session_id"])
    (result,) = done["result"]
    assert result["status"] == "success"
    assert result["result"] == {"text": "hello"}
    end = await settled(device, answer["session_id"])
    assert (end["status"], end["task_name"]) == ("completed", task_name)


async def test_the_device_gets_the_task_then_its_commands_with_the_names_of_its_platform(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a, platform="windows")

    answer = await cluster.a.dispatch(device.client_id, ECHO, ECHO, metadata={"root_name": "EXCEL.EXE"})
    await cluster.a.done(answer["task_name"])

    task, commands = await device.expect("task"), await device.expect("command")
    assert (task["user_request"], task["status"]) == ("do as told", "continue")
    assert {task["session_id"], commands["session_id"]} == {answer["session_id"]}
    assert (commands["agent_name"], commands["root_name"]) == ("HostAgent", "EXCEL.EXE")
    assert [a["tool_type"] for a in commands["actions"]] == ["action", "action"]
    assert len({a["call_id"] for a in commands["actions"]}) == 2
    assert len({frame["response_id"] for frame in device.heard}) == len(device.heard)


async def test_the_task_that_a_ufo_device_repeats_joins_the_session_that_made_it_do_so(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a)
    task_name = unique("task")

    answer = await cluster.b.dispatch(device.client_id, ECHO, task_name=task_name)
    await cluster.b.done(task_name)
    await device.still_served()

    session = await only_session(cluster.c, device)
    assert (session["session_id"], session["task_name"]) == (answer["session_id"], task_name)
    assert device.count("task") == device.count("command") == device.count("task_end") == 1


async def test_a_task_without_a_name_is_repeated_and_read_under_its_session_id(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a)

    answer = await cluster.b.dispatch(device.client_id, ECHO)
    done = await cluster.c.done(answer["session_id"])

    assert answer["task_name"] == answer["session_id"]
    assert done["state"] == "completed"
    await only_session(cluster.b, device)


async def test_commands_reach_a_device_that_does_not_repeat_the_task_after_a_while(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a, echoes=False)

    answer = await cluster.b.dispatch(device.client_id, ECHO)
    await device.expect("task", session_id=answer["session_id"])

    assert device.count("command") == 0
    assert (await cluster.c.done(answer["task_name"]))["state"] == "completed"


async def test_a_device_that_says_so_gets_its_commands_without_repeating_the_task(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a, echoes=False, features=("commands_without_echo",))

    answer = await cluster.b.dispatch(device.client_id, ECHO)

    assert (await cluster.c.done(answer["task_name"]))["state"] == "completed"


@pytest.mark.parametrize("when", ["while it runs", "after it ended"])
async def test_a_late_repetition_of_the_task_starts_no_second_session(
    cluster: Cluster, guests: Guests, when: str
) -> None:
    device = await guests.device(cluster.a, echoes=False, answers=False)
    answer = await cluster.b.dispatch(device.client_id, ECHO)
    task, commands = await device.expect("task"), await device.expect("command")

    if when == "after it ended":
        await device.answer(commands)
        await cluster.b.done(answer["task_name"])
    await device.echo(task)
    await device.still_served()
    if when == "while it runs":
        await device.answer(commands)

    assert (await cluster.b.done(answer["task_name"]))["state"] == "completed"
    await device.still_served()
    assert device.count("task") == device.count("command") == 1
    await only_session(cluster.c, device)


async def test_after_a_failed_command_the_rest_is_skipped_and_the_task_fails_with_its_error(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a)

    answer = await cluster.b.dispatch(device.client_id, ECHO, command("fail", error="no such file"), ECHO)
    done = await cluster.c.done(answer["task_name"])

    assert done["state"] == "failed"
    assert "no such file" in done["error"]
    assert [r["status"] for r in done["result"]] == ["success", "failure", "skipped"]
    end = await settled(device, answer["session_id"])
    assert (end["status"], end["error"]) == ("failed", done["error"])


async def test_a_task_that_is_not_done_in_time_ends_as_timed_out_and_the_device_is_told(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a)

    answer = await cluster.b.dispatch(device.client_id, command("hang"), timeout_s=1)
    done = await cluster.c.done(answer["task_name"])

    assert (done["state"], done["error"]) == ("timed_out", "Task timed out after 1 s")
    assert (await settled(device, answer["session_id"]))["status"] == "failed"
    # The answer that comes after all changes nothing, and does no harm.
    await device.answer_with(await device.expect("command"), [])
    await device.still_served()
    assert (await cluster.b.session(answer["session_id"]))["state"] == "timed_out"


async def test_a_session_is_cancelled_from_another_node_once(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    answer = await cluster.b.dispatch(device.client_id, command("hang"))
    await device.expect("command")

    first = await cluster.c.cancel(answer["session_id"])
    end = await settled(device, answer["session_id"])
    second = await cluster.b.cancel(answer["session_id"])

    assert (first["cancelled"], first["state"]) == (True, "cancelled")
    assert (second["cancelled"], second["state"]) == (False, "cancelled")
    assert (end["status"], end["error"]) == ("failed", "Task was cancelled on request")
    assert (await cluster.a.result(answer["task_name"]))["state"] == "cancelled"
    assert device.count("task_end") == 1


async def test_a_name_is_taken_while_its_task_runs_and_free_after_the_end(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a, answers=False)
    task_name = unique("task")
    first = await cluster.a.dispatch(device.client_id, command("echo", n=1), task_name=task_name)
    commands = await device.expect("command")

    refused = await cluster.b.try_dispatch(device.client_id, command("echo", n=2), task_name=task_name)
    await device.answer(commands)
    done = await cluster.c.done(task_name)
    device.answers = True
    second = await cluster.b.dispatch(device.client_id, command("echo", n=3), task_name=task_name)
    redone = await cluster.c.done(task_name)

    assert (refused.status_code, refused.json()["detail"]) == (409, f"Task '{task_name}' is already running")
    assert (done["session_id"], done["result"][0]["result"]) == (first["session_id"], {"n": 1})
    assert (redone["session_id"], redone["result"][0]["result"]) == (second["session_id"], {"n": 3})
    assert len(await cluster.a.sessions_of(device.client_id)) == 2


async def test_two_devices_run_the_same_request_each_in_a_session_of_its_own(cluster: Cluster, guests: Guests) -> None:
    devices = [await guests.device(cluster.a), await guests.device(cluster.b)]

    answers = [await cluster.c.dispatch(d.client_id, command("echo", at=d.client_id)) for d in devices]
    done = [await cluster.c.done(a["task_name"]) for a in answers]

    assert [d["result"][0]["result"]["at"] for d in done] == [d.client_id for d in devices]
    for device in devices:
        await only_session(cluster.a, device)


async def test_a_task_for_a_device_that_is_not_there_is_refused_and_leaves_nothing(cluster: Cluster) -> None:
    client_id, task_name = unique("nobody"), unique("task")

    refused = await cluster.a.try_dispatch(client_id, ECHO, task_name=task_name)

    assert (refused.status_code, refused.json()) == (404, {"detail": "Client not online"})
    assert (await cluster.a.get(f"/api/task_result/{task_name}")).status_code == 404
    assert await cluster.b.sessions_of(client_id) == []
    assert [key for key in cluster.redis.key_names() if client_id in key or task_name in key] == []


async def test_a_task_that_no_planner_can_run_is_refused_with_a_remedy(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)

    refused = await cluster.b.try_dispatch(device.client_id)

    assert refused.status_code == 422
    assert "commands" in refused.json()["detail"]
    assert await cluster.b.sessions_of(device.client_id) == []
    await device.still_served()
    assert device.count("task") == 0


async def test_a_task_that_the_user_of_a_device_typed_runs_there(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a, echoes=False)
    task_name = unique("typed")

    await device.send(
        {
            "type": "task",
            "status": "continue",
            "client_type": "device",
            "client_id": device.client_id,
            "task_name": task_name,
            "request": "what the user typed",
            "session_id": None,
            "metadata": {"platform": "linux", "commands": [ECHO]},
        }
    )
    done = await cluster.c.done(await eventually_known(cluster.c, task_name))

    assert done["state"] == "completed"
    assert (await settled(device, done["session_id"]))["status"] == "completed"
    assert (await only_session(cluster.b, device))["owner"] == device.client_id


async def eventually_known(node: Node, task_name: str) -> str:
    async def known() -> bool:
        return (await node.get(f"/api/task_result/{task_name}")).status_code == 200

    await eventually(known, "the task is known")
    return task_name


async def test_waiting_readers_on_every_node_are_woken_by_the_one_end(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a, answers=False)
    answer = await cluster.a.dispatch(device.client_id, ECHO)
    commands = await device.expect("command")
    assert (await cluster.b.result(answer["task_name"], wait_s=0)) == {"status": "pending"}

    readers = [asyncio.create_task(node.done(answer["task_name"], wait_s=30)) for node in cluster.nodes for _ in (1, 2)]
    await stays(lambda: not any(r.done() for r in readers), "everybody waits", for_s=0.5)
    await device.answer(commands)

    assert {r["state"] for r in await asyncio.gather(*readers)} == {"completed"}


async def test_a_session_tells_its_steps_in_order(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)

    answer = await cluster.b.dispatch(device.client_id, ECHO)
    await cluster.b.done(answer["task_name"])
    session = await cluster.c.session(answer["session_id"])

    steps = [step["event"] for step in session["steps"]]
    assert steps == ["created", "dispatched", "commands", "results", "ended"]
    times = [session[name] for name in ("created_ms", "dispatched_ms", "started_ms", "ended_ms")]
    assert times == sorted(times)
    assert session["node_id"] == await cluster.a.node_id()
