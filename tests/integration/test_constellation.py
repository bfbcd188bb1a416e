"""Orchestrators: they ask for tasks on devices of other nodes, and hear of each end once, whatever it was."""

import pytest

from tests.integration.harness.cluster import Cluster, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import eventually
from tests.integration.harness.ufo import UfoConstellation, system_info

pytestmark = pytest.mark.integration

DEVICE_GONE = "Task was cancelled because target device disconnected"
ECHO = command("echo", text="hello")


async def test_a_task_is_acknowledged_and_its_end_told_under_the_id_that_the_orchestrator_chose(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)

    session_id = await galaxy.task(ECHO, number=7)
    await galaxy.expect("heartbeat", status="ok", session_id=session_id)
    end = await galaxy.expect("task_end", session_id=session_id)

    assert session_id == f"{galaxy.name}@task_7"
    assert (end["status"], end.get("error")) == ("completed", None)
    assert end["result"][0]["result"] == {"text": "hello"}
    stored = await cluster.c.session(session_id)
    assert (stored["owner"], stored["state"]) == (galaxy.client_id, "completed")
    assert stored["task_name"] == f"galaxy/{galaxy.name}/step7"
    assert (await cluster.c.done(f"galaxy/{galaxy.name}/step7"))["session_id"] == session_id
    assert galaxy.count("task_end") == 1


async def test_a_task_as_ufo_sends_it_runs_on_an_autonomous_device(cluster: Cluster, guests: Guests) -> None:
    worker = await guests.autonomous(cluster.a)
    galaxy = await guests.constellation(cluster.b, worker.client_id)

    session_id = await galaxy.task()
    task = await worker.expect("task", session_id=session_id)
    await worker.report(task, "completed", "done")

    assert (task["user_request"], task["task_name"]) == ("do step 3", f"galaxy/{galaxy.name}/step3")
    assert (await galaxy.expect("task_end", session_id=session_id))["status"] == "completed"


async def test_a_task_that_fails_is_told_with_its_error(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)

    session_id = await galaxy.task(command("fail", error="no such window"))
    end = await galaxy.expect("task_end", session_id=session_id)

    assert end["status"] == "failed"
    assert "no such window" in end["error"]


async def test_an_orchestrator_for_a_device_that_is_not_connected_is_refused(cluster: Cluster, guests: Guests) -> None:
    device_id = unique("nobody")
    galaxy = UfoConstellation(cluster.a.ws_url, unique("galaxy"), device_id)
    async with galaxy:
        await galaxy.send(galaxy.registration())
        refusal = await galaxy.expect("error", status="error")
        closed = await galaxy.until_closed()

    assert refusal["error"] == f"Target device '{device_id}' is not connected"
    assert closed.code != 1006
    assert galaxy.client_id not in await cluster.b.online()


async def test_another_orchestrator_is_no_device_to_target(cluster: Cluster, guests: Guests) -> None:
    first = await guests.constellation(cluster.a)
    galaxy = UfoConstellation(cluster.a.ws_url, unique("galaxy"), first.client_id)
    async with galaxy:
        await galaxy.send(galaxy.registration())
        assert "is not connected" in (await galaxy.expect("error"))["error"]


async def test_an_orchestrator_learns_about_its_device(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)

    request_id = await galaxy.ask_for_device(device.client_id)
    answer = await galaxy.expect("device_info_response", response_id=request_id)

    assert answer["status"] == "ok"
    assert answer["result"] == system_info(device.client_id, "linux", ["gui", "cli"])


async def test_an_orchestrator_of_no_device_learns_only_about_those_that_it_sends_tasks_to(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b)

    for target_id in (device.client_id, unique("nobody")):
        request_id = await galaxy.ask_for_device(target_id)
        answer = await galaxy.expect("device_info_response", response_id=request_id)
        assert (answer["status"], answer.get("result")) == ("error", None)
        assert "register with the device as target_id" in answer["error"]

    await galaxy.task(ECHO, target_id=device.client_id)
    await galaxy.expect("task_end")
    request_id = await galaxy.ask_for_device(device.client_id)
    answer = await galaxy.expect("device_info_response", response_id=request_id)
    assert answer["result"] == system_info(device.client_id, "linux", ["gui", "cli"])


async def test_an_orchestrator_of_one_device_learns_nothing_about_another_and_cannot_task_it(
    cluster: Cluster, guests: Guests
) -> None:
    mine, other = await guests.device(cluster.a), await guests.device(cluster.b)
    galaxy = await guests.constellation(cluster.b, mine.client_id)

    await galaxy.ask_for_device(other.client_id)
    info = await galaxy.expect("error", status="error")
    session_id = await galaxy.task(ECHO, target_id=other.client_id)
    task = await galaxy.expect("error", status="error")

    assert "target_id" in info["error"]
    assert (task["session_id"], "target_id" in task["error"]) == (session_id, True)
    assert galaxy.count("device_info_response") == 0
    await other.still_served()
    assert other.count("task") == 0
    assert (await cluster.c.get(f"/api/sessions/{session_id}")).status_code == 404


async def test_an_orchestrator_without_a_device_may_target_any(cluster: Cluster, guests: Guests) -> None:
    devices = [await guests.device(node) for node in cluster.nodes]
    galaxy = await guests.constellation(cluster.b)

    for number, device in enumerate(devices):
        session_id = await galaxy.task(command("echo", n=number), number=number, target_id=device.client_id)
        end = await galaxy.expect("task_end", session_id=session_id)
        assert end["result"][0]["result"] == {"n": number}
    nameless = await galaxy.task(ECHO, number=9)

    assert "target_id" in (await galaxy.expect("error", session_id=nameless))["error"]


async def test_a_task_for_a_device_that_has_left_ends_at_once_as_failed(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)
    await device.close()

    async def gone() -> bool:
        return device.client_id not in await cluster.b.online()

    await eventually(gone, "the device is gone")

    session_id = await galaxy.task(ECHO)
    end = await galaxy.expect("task_end", session_id=session_id)

    assert (end["status"], end["error"]) == ("failed", f"Target device '{device.client_id}' is not connected")
    assert (await cluster.c.get(f"/api/sessions/{session_id}")).status_code == 404
    await galaxy.still_served()


async def test_a_device_session_goes_on_when_its_orchestrator_leaves_and_its_result_is_kept(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a, answers=False)
    galaxy = await guests.constellation(cluster.b, device.client_id)
    session_id = await galaxy.task(ECHO)
    commands = await device.expect("command")

    await galaxy.abort()
    await eventually_offline(cluster, galaxy.client_id)
    await device.answer(commands)

    done = await cluster.c.done(f"galaxy/{galaxy.name}/step3")
    assert (done["session_id"], done["state"]) == (session_id, "completed")
    assert (await device.expect("task_end"))["status"] == "completed"


async def eventually_offline(cluster: Cluster, client_id: str) -> None:
    async def offline() -> bool:
        return client_id not in await cluster.c.online()

    await eventually(offline, f"{client_id} is offline")


async def test_the_orchestrator_hears_at_once_when_the_device_is_killed_in_its_task(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)
    session_id = await galaxy.task(command("hang"))
    await device.expect("command")

    await device.abort()
    end = await galaxy.expect("task_end", session_id=session_id)
    stored = await cluster.c.session(session_id)

    assert (end["status"], end["error"]) == ("failed", DEVICE_GONE)
    assert (stored["state"], stored["error"]) == ("cancelled", DEVICE_GONE)
    await galaxy.still_served()
    assert galaxy.count("task_end") == 1


async def test_each_requester_gets_the_messages_of_its_own_sessions_only(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    galaxies = [await guests.constellation(cluster.nodes[i % 3], device.client_id) for i in range(6)]

    sessions = [[await g.task(command("echo", of=g.name), number=n) for n in range(5)] for g in galaxies]

    for galaxy, own in zip(galaxies, sessions, strict=True):
        for session_id in own:
            end = await galaxy.expect("task_end", session_id=session_id)
            assert end["result"][0]["result"] == {"of": galaxy.name}
    for galaxy, own in zip(galaxies, sessions, strict=True):
        heard = {f["session_id"] for f in galaxy.heard if f.get("session_id")}
        assert heard == set(own)
        assert galaxy.count("task_end") == len(own)


async def test_an_orchestrator_hears_when_its_task_is_cancelled_or_too_late(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)

    cancelled = await galaxy.task(command("hang"), number=1)
    await device.expect("command", session_id=cancelled)
    await cluster.c.cancel(cancelled)
    late = await galaxy.task(number=2, metadata={"commands": [command("hang")], "timeout_s": 0.5})

    assert (await galaxy.expect("task_end", session_id=cancelled))["error"] == "Task was cancelled on request"
    assert (await galaxy.expect("task_end", session_id=late))["error"] == "Task timed out after 0.5 s"


async def test_a_heartbeat_of_an_orchestrator_says_device_and_is_answered(cluster: Cluster, guests: Guests) -> None:
    galaxy = await guests.constellation(cluster.a)

    await galaxy.heartbeat()

    assert (await galaxy.expect("heartbeat"))["status"] == "ok"


async def test_a_device_may_push_a_fresh_profile(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)

    profile = {"platform": "linux", "system_info": system_info(device.client_id, "linux", ["gui", "camera"])}
    await device.send({"type": "device_info_response", "status": "ok", "metadata": profile})
    await device.still_served()
    request_id = await galaxy.ask_for_device(device.client_id)

    answer = await galaxy.expect("device_info_response", response_id=request_id)
    assert answer["result"]["supported_features"] == ["gui", "camera"]
    assert (await cluster.c.get(f"/api/clients/{device.client_id}")).json()["features"] == ["camera", "gui"]
