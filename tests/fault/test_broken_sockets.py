"""A device whose socket breaks goes on where it was: on any node, once, and within its time."""

import asyncio

import pytest

from devtools.proxy import Proxy
from shared_state.keys import Keys
from tests.fault.conftest import MakeAgent
from tests.fault.devices import Agent, state_becomes
from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import eventually, stays, vanishes
from tests.integration.harness.ufo import UfoConstellation
from tests.support.features import OURS
from tests.support.tasks import GONE

pytestmark = pytest.mark.integration

GRACE_S = 30


async def _under_way(cluster: Cluster, device: Agent) -> dict[str, str]:
    """A task whose command is being carried out."""
    await device.on(cluster.a)
    task = await cluster.b.dispatch(device.device_id, device.mark("once", hold=True))
    await device.begun("once")
    return task


async def test_a_command_under_way_when_its_socket_is_cut_is_carried_out_once_and_its_result_taken_on_another_node(
    own_cluster: MakeCluster, agent: MakeAgent
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S)
    async with Proxy(cluster.a.process.port) as cable:
        device = agent(cable.ws_url)
        task = await _under_way(cluster, device)
        cable.plug_into(cluster.b.process.port)
        cable.cut()
        await device.on(cluster.b)
        device.release()
        done = await cluster.a.done(task["task_name"])
    assert (done["state"], done["error"]) == ("completed", None)
    assert device.times("once") == 1
    steps = [s["event"] for s in (await cluster.a.session(task["session_id"]))["steps"]]
    assert "suspended" in steps or "resumed" in steps
    assert cluster.redis.immortal_keys() == []


async def test_without_grace_the_same_cut_cancels_the_same_task(own_cluster: MakeCluster, agent: MakeAgent) -> None:
    cluster = own_cluster(2, reconnect_grace_s=0)
    async with Proxy(cluster.a.process.port) as cable:
        device = agent(cable.ws_url)
        task = await _under_way(cluster, device)
        cable.plug_into(cluster.b.process.port)
        cable.cut()
        done = await cluster.b.done(task["task_name"])
    assert (done["state"], done["error"]) == ("cancelled", GONE)


async def test_a_result_that_the_device_made_while_it_was_cut_off_is_taken_when_it_is_back(
    own_cluster: MakeCluster, agent: MakeAgent
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S)
    async with Proxy(cluster.a.process.port) as cable:
        device = agent(cable.ws_url)
        task = await _under_way(cluster, device)
        cable.plug_into(1)  # nobody listens there
        cable.cut()
        await state_becomes(cluster.b, task["session_id"], "suspended")
        device.release()
        await asyncio.sleep(1)
        assert await cluster.b.state_of(task["session_id"]) == "suspended"
        cable.plug_into(cluster.b.process.port)
        done = await cluster.a.done(task["task_name"], wait_s=40)
    assert done["state"] == "completed"
    assert device.times("once") == 1


async def test_a_device_that_was_killed_and_started_anew_does_not_carry_its_command_out_again(
    own_cluster: MakeCluster, agent: MakeAgent
) -> None:
    """It recognises repeats, but remembers nothing: the session ends and says so."""
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S)
    device = agent(cluster.a.ws_url)
    task = await _under_way(cluster, device)
    device.kill()
    device.launch()
    done = await cluster.b.done(task["task_name"], wait_s=40)
    assert done["state"] == "failed"
    assert "does not recognise a command that it gets again" in done["error"]
    assert device.times("once") == 1


async def test_a_device_of_ufo_whose_command_was_under_way_fails_its_session_and_goes_on_with_the_next(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S)
    device = await guests.device(cluster.a)
    task = await cluster.b.dispatch(device.client_id, command("hang"))
    await device.expect("command")
    await device.abort()
    back = await guests.device(cluster.b, device.client_id)
    done = await cluster.a.done(task["task_name"])
    assert done["state"] == "failed"
    assert "does not recognise a command that it gets again" in done["error"]
    assert back.count("command") == 0
    again = await cluster.a.dispatch(device.client_id, command("echo"))
    assert (await cluster.a.done(again["task_name"]))["state"] == "completed"


async def test_a_goodbye_cancels_at_once_however_long_the_grace(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(2, reconnect_grace_s=600)
    device = await guests.device(cluster.a)
    task = await cluster.b.dispatch(device.client_id, command("hang"))
    await device.expect("command")
    await device.close()
    done = await cluster.b.done(task["task_name"])
    assert (done["state"], done["error"]) == ("cancelled", GONE)
    assert (await cluster.b.try_dispatch(device.client_id, command("echo"))).status_code == 404


async def test_who_stays_away_too_long_is_settled_once_by_whichever_node_and_the_constellation_told_once(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(3, reconnect_grace_s=2)
    devices = [await guests.device(cluster.nodes[i % 3]) for i in range(12)]
    galaxies = [await guests.constellation(cluster.nodes[(i + 1) % 3], d.client_id) for i, d in enumerate(devices)]
    sessions = [await g.task(command("hang")) for g in galaxies]
    for device in devices:
        await device.expect("command")
    await asyncio.gather(*(d.abort() for d in devices))
    for galaxy, session_id in zip(galaxies, sessions, strict=True):
        end = await galaxy.expect("task_end", session_id=session_id, within_s=25)
        assert (end["status"], end["error"]) == ("failed", GONE)
    await asyncio.sleep(1)
    for galaxy, session_id in zip(galaxies, sessions, strict=True):
        await galaxy.still_served()
        assert galaxy.count("task_end") == 1
        steps = [s["event"] for s in (await cluster.c.session(session_id))["steps"]]
        assert steps.count("ended") == 1
    assert not [k for k in cluster.redis.key_names("aip:client:*") if "device" in k and "@" not in k]
    assert cluster.redis.immortal_keys() == []


def _waiting(cluster: Cluster, client_id: str) -> int:
    """How many messages are in a client's inbox."""
    return cluster.redis.inbox_length(Keys().inbox(client_id))


async def test_what_is_told_to_a_constellation_whose_cable_is_out_is_told_again_when_it_is_back(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    """To the node the socket is fine: what is written to it vanishes, and nobody notices."""
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S, ping_interval_s=600, ping_timeout_s=600)
    device = await guests.device(cluster.b, answers=False)
    async with Proxy(cluster.a.process.port) as cable:
        galaxy = await guests.register(UfoConstellation(cable.ws_url, unique("galaxy"), device.client_id))
        session_id = await galaxy.task(command("echo"))
        asked = await device.expect("command")
        cable.hold()
        await device.answer(asked)
        await state_becomes(cluster.b, session_id, "completed")
        await asyncio.sleep(1)
        assert galaxy.count("task_end") == 0
        back = await guests.constellation(cluster.b, device.client_id, name=galaxy.name)
        await back.expect("task_end", session_id=session_id, status="completed")
        await vanishes(lambda: _waiting(cluster, back.client_id), "nothing waits for it any more")
        assert back.count("task_end") == 1


@pytest.mark.parametrize("how", ["cut", "goodbye and back"])
async def test_a_constellation_that_is_back_in_time_gets_what_ended_meanwhile_once(
    own_cluster: MakeCluster, guests: Guests, how: str
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S)
    device = await guests.device(cluster.a, answers=False)
    galaxy = await guests.constellation(cluster.a, device.client_id)
    session_id = await galaxy.task(command("echo"))
    asked = await device.expect("command")
    await (galaxy.abort() if how == "cut" else galaxy.close())

    async def noticed() -> bool:
        return await cluster.b.holder_of(galaxy.client_id) in {"", None}

    await eventually(noticed, "its node knows that it has gone")
    await device.answer(asked)
    await state_becomes(cluster.b, session_id, "completed")
    back = await guests.constellation(cluster.b, device.client_id, name=galaxy.name)
    if how != "cut":
        # It left for good: what came of its task is to be read over REST.
        await back.still_served()
        assert back.count("task_end") == 0
        return
    await back.expect("task_end", session_id=session_id, status="completed")
    await back.still_served()
    await vanishes(lambda: _waiting(cluster, back.client_id), "nothing waits for it any more")
    await back.abort()
    again = await guests.constellation(cluster.a, device.client_id, name=galaxy.name)
    await again.still_served()
    assert again.count("task_end") == 0


async def test_tasks_for_a_device_that_is_away_wait_and_run_once_in_order(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S)
    device = await guests.device(cluster.a, features=OURS, echoes=False)
    await device.abort()

    async def away() -> bool:
        return await cluster.b.holder_of(device.client_id) in {"", None}

    await eventually(away, "the device is away")
    sent = [(await cluster.b.dispatch(device.client_id, command("echo", n=n)))["task_name"] for n in range(10)]
    back = await guests.device(cluster.b, device.client_id, features=OURS, echoes=False)
    for name in sent:
        assert (await cluster.a.done(name))["state"] == "completed"
    # Tasks keep their order; their sessions then run side by side, each in its own time.
    assert [f["task_name"] for f in back.heard if f["type"] == "task"] == sent
    assert sorted(a["parameters"]["n"] for a in back.executed) == list(range(10))


async def test_redis_restarted_with_its_data_while_devices_are_away_costs_them_nothing(
    own_cluster: MakeCluster, agent: MakeAgent
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S)
    async with Proxy(cluster.a.process.port) as cable:
        device = agent(cable.ws_url)
        task = await _under_way(cluster, device)
        cable.plug_into(1)
        cable.cut()
        await state_becomes(cluster.b, task["session_id"], "suspended")
        cluster.redis.shut_down(keep_data=True)
        await asyncio.sleep(1)
        cluster.redis.start()
        await cluster.all_ready(within_s=30)
        cable.plug_into(cluster.b.process.port)
        device.release()
        done = await cluster.a.done(task["task_name"], wait_s=40)
    assert done["state"] == "completed"
    assert device.times("once") == 1


async def test_redis_losing_everything_while_a_device_is_away_loses_its_session_and_nothing_runs_twice(
    own_cluster: MakeCluster, agent: MakeAgent
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S)
    async with Proxy(cluster.a.process.port) as cable:
        device = agent(cable.ws_url)
        task = await _under_way(cluster, device)
        cable.plug_into(1)
        cable.cut()
        await state_becomes(cluster.b, task["session_id"], "suspended")
        for server in cluster.redis.topology.primaries():
            server.client.flushall()
        cable.plug_into(cluster.b.process.port)
        device.release()
        await device.on(cluster.b, within_s=40)
        assert (await cluster.b.get(f"/api/sessions/{task['session_id']}")).status_code == 404
        again = await cluster.a.dispatch(device.device_id, device.mark("again"))
        assert (await cluster.b.done(again["task_name"]))["state"] == "completed"
        assert (device.times("once"), device.times("again")) == (1, 1)
        await stays(lambda: cluster.redis.immortal_keys() == [], "every key has a time to live", for_s=0.5)
