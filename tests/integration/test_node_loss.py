"""Nodes that die, freeze, or leave in order: what they held is void in time, every task ends, nobody is owned twice."""

import asyncio
import contextlib

import pytest
from websockets.exceptions import WebSocketException

from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, Node, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import eventually, stays, vanishes
from tests.integration.harness.ufo import UfoDevice

pytestmark = pytest.mark.integration

DEVICE_GONE = "Task was cancelled because target device disconnected"
HANG = command("hang")
ECHO = command("echo")
# What is promised, and what a loaded machine may add to it.
VOID_S = 6.0
SLACK_S = 8.0


async def comes_back(url: str, client_id: str, *, within_s: float = 15.0) -> UfoDevice:
    """A device that tries to register until it is let in, as fast as it can."""
    found: list[UfoDevice] = []

    async def accepted() -> bool:
        device = UfoDevice(url, client_id)
        with contextlib.suppress(OSError, WebSocketException):
            await device.connect()
            await device.send(device.registration())
            answer = await device.first_answer()
            if answer["type"] == "heartbeat":
                found.append(device)
                return True
        await device.abort()
        return False

    await eventually(accepted, f"{client_id} is let in", within_s=within_s)
    return found[0]


async def ended_as(node: Node, session_id: str, state: str, *, within_s: float = 10.0) -> None:
    async def ended() -> bool:
        return await node.state_of(session_id) == state

    await eventually(ended, f"the session is {state}", within_s=within_s)


async def test_what_a_killed_node_held_is_void_in_time_and_its_sessions_end_as_cancelled(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    lost, kept = await guests.device(cluster.a), await guests.device(cluster.b)
    galaxy = await guests.constellation(cluster.b, lost.client_id)
    by_rest = await cluster.b.dispatch(lost.client_id, HANG)
    by_galaxy = await galaxy.task(HANG)
    await lost.expect("command", session_id=by_rest["session_id"])
    await lost.expect("command", session_id=by_galaxy)
    dead = await cluster.a.node_id()

    cluster.a.process.kill()

    async def void() -> bool:
        return lost.client_id not in await cluster.b.online() and dead not in await cluster.b.nodes()

    await eventually(void, "REST does not name the dead node", within_s=VOID_S + SLACK_S)
    await vanishes(lambda: cluster.redis.mentions(dead), "Redis does not name it", within_s=SLACK_S)
    end = await galaxy.expect("task_end", session_id=by_galaxy, within_s=SLACK_S)
    assert (end["status"], end["error"]) == ("failed", DEVICE_GONE)
    done = await cluster.b.done(by_rest["task_name"])
    assert (done["state"], done["error"]) == ("cancelled", DEVICE_GONE)
    assert (await cluster.b.try_dispatch(lost.client_id, ECHO)).status_code == 404
    answer = await cluster.b.dispatch(kept.client_id, ECHO)
    assert (await cluster.b.done(answer["task_name"]))["state"] == "completed"
    assert cluster.redis.immortal_keys() == []


async def test_a_task_that_was_accepted_for_a_device_of_a_node_that_had_just_died_ends_all_the_same(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.a)

    cluster.a.process.kill()
    answers = [await cluster.b.try_dispatch(device.client_id, ECHO) for _ in range(20)]

    assert {a.status_code for a in answers} <= {200, 404}
    for answer in answers:
        if answer.status_code == 200:
            await ended_as(cluster.b, answer.json()["session_id"], "cancelled", within_s=VOID_S + SLACK_S)


async def test_the_sessions_of_a_dead_node_end_also_if_its_device_is_back_before_they_are_settled(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(3)
    devices = [await guests.device(cluster.a) for _ in range(6)]
    galaxies = [await guests.constellation(cluster.b, d.client_id) for d in devices]
    sessions = [await g.task(HANG) for g in galaxies]
    for device, session_id in zip(devices, sessions, strict=True):
        await device.expect("command", session_id=session_id)

    cluster.a.process.kill()
    back = await asyncio.gather(*(comes_back(cluster.c.ws_url, d.client_id) for d in devices))

    try:
        for galaxy, session_id in zip(galaxies, sessions, strict=True):
            await ended_as(cluster.b, session_id, "cancelled", within_s=3 + SLACK_S)
            await galaxy.expect("task_end", session_id=session_id)
        for device in back:
            answer = await cluster.b.dispatch(device.client_id, ECHO)
            assert (await cluster.c.done(answer["task_name"]))["state"] == "completed"
    finally:
        for device in back:
            await device.abort()


async def test_a_lone_node_that_was_killed_and_started_again_takes_its_devices_back(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(1)
    device = await guests.device(cluster.a)

    cluster.a.process.kill()
    cluster.a.process.launch()
    cluster.a.process.wait_until("/readyz")
    back = await comes_back(cluster.a.ws_url, device.client_id, within_s=VOID_S + SLACK_S)

    try:
        again = await cluster.a.dispatch(back.client_id, ECHO)
        assert (await cluster.a.done(again["task_name"]))["state"] == "completed"
    finally:
        await back.abort()
    assert cluster.redis.immortal_keys() == []


async def test_a_node_frozen_beyond_its_lease_claims_its_clients_again_or_closes_their_sockets(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    moved, waited = await guests.device(cluster.a), await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, moved.client_id)
    session_id = await galaxy.task(HANG)
    await moved.expect("command")

    cluster.a.process.freeze()
    assert (await galaxy.expect("task_end", session_id=session_id))["error"] == DEVICE_GONE
    again = await comes_back(cluster.b.ws_url, moved.client_id)
    owner = cluster.redis.registration(moved.client_id)
    # Long enough that its own clock, too, tells it that the lease is gone.
    await asyncio.sleep(2)
    cluster.a.process.thaw()

    try:
        closed = await moved.until_closed()
        await stays(
            lambda: cluster.redis.registration(moved.client_id) == owner, "the newer socket is the owner", for_s=1
        )
        assert closed.code >= 4000
        node_b = await cluster.b.node_id()
        for node in cluster.nodes:
            assert await node.holder_of(moved.client_id) == node_b
        answer = await cluster.a.dispatch(moved.client_id, ECHO)
        assert (await cluster.b.done(answer["task_name"]))["state"] == "completed"
        assert again.count("task") == 1

        async def reachable() -> bool:
            return (await cluster.b.try_dispatch(waited.client_id, ECHO)).status_code == 200

        if waited.is_open:
            await eventually(reachable, "the device that stayed is reachable", within_s=3 + SLACK_S)
            await waited.still_served()
            assert await cluster.b.holder_of(waited.client_id) == await cluster.a.node_id()
    finally:
        await again.abort()


async def test_the_end_of_a_node_by_sigterm_leaves_nothing_and_sends_its_clients_elsewhere(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    # Its device would not recognise a repetition: the drain waits for its step, to the deadline.
    cluster = own_cluster(2, drain_deadline_s=2)
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.a, device.client_id)
    other = await guests.constellation(cluster.b, device.client_id)
    session_id = await other.task(HANG)
    await device.expect("command")
    leaving = await cluster.a.node_id()
    reader = asyncio.create_task(cluster.a.get(f"/api/task_result/galaxy/{other.name}/step3", wait=30))

    async def waits() -> bool:
        return "aip_http_requests_waiting 1.0" in (await cluster.a.get("/metrics")).text

    await eventually(waits, "somebody waits for a result there")

    exit_code = await asyncio.to_thread(cluster.a.process.stop)

    assert exit_code == 0
    assert [(await peer.until_closed()).code for peer in (device, galaxy)] == [1012, 1012]
    assert cluster.redis.mentions(leaving) == []
    assert await cluster.b.nodes() == [await cluster.b.node_id()]
    end = await other.expect("task_end", session_id=session_id)
    assert (end["status"], end["error"]) == ("failed", DEVICE_GONE)
    # Whoever waited for a result there was answered.
    assert (await reader).status_code == 200
    again = await guests.device(cluster.b, device.client_id)
    answer = await cluster.b.dispatch(again.client_id, ECHO)
    assert (await cluster.b.done(answer["task_name"]))["state"] == "completed"
    assert cluster.redis.immortal_keys() == []


async def test_tasks_under_load_all_end_when_a_node_is_killed(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(3)
    devices = [await guests.device(cluster.nodes[i % 3]) for i in range(9)]
    accepted: list[str] = []
    killed = asyncio.Event()

    async def load(i: int) -> None:
        for n in range(15):
            answer = await cluster.nodes[1 + i % 2].try_dispatch(
                devices[(i + n) % 9].client_id, command("echo", token=unique("t"))
            )
            assert answer.status_code in {200, 404}
            if answer.status_code == 200:
                accepted.append(answer.json()["session_id"])
            if len(accepted) == 40:
                cluster.a.process.kill()
                killed.set()
            await asyncio.sleep(0.01)

    await asyncio.gather(*(load(i) for i in range(8)))
    assert killed.is_set()

    await all_end(cluster, accepted)


async def all_end(cluster: Cluster, session_ids: list[str]) -> None:
    async def ended() -> bool:
        states = await asyncio.gather(*(cluster.b.state_of(s) for s in session_ids))
        return set(states) <= {"completed", "cancelled"}

    await eventually(ended, "every accepted task has ended", within_s=VOID_S + SLACK_S)
