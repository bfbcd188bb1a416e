"""Nodes that are emptied, as real processes: by REST, by a signal, by two."""

import asyncio
import signal

import httpx
import pytest

from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Json, Node, accepted, command
from tests.integration.harness.guests import Guests
from tests.integration.harness.patience import eventually, stays
from tests.integration.harness.ufo import UfoDevice
from tests.support.features import OURS

pytestmark = pytest.mark.integration

DRAIN = "/api/nodes/self/drain"
WORK = command("echo", x=1)
# No test waits for it: what ends a drain with this deadline is not the deadline.
FOR_EVER = 3600
GRACE = {"reconnect_grace_s": 30}


async def drain_of(node: Node) -> Json:
    return accepted(await node.get(DRAIN))


async def at_work(node: Node, device: UfoDevice) -> tuple[str, Json]:
    """The device has a step under way: the session, and the command that the test is to answer."""
    answer = await node.dispatch(device.client_id, WORK)
    return answer["session_id"], await device.expect("command")


async def test_a_drain_by_rest_moves_everybody_and_the_node_stays_until_it_is_told_otherwise(
    own_cluster: MakeCluster, guests: Guests, http: httpx.AsyncClient
) -> None:
    cluster = own_cluster(2)
    devices = [await guests.device(cluster.a) for _ in range(5)]
    boss = await guests.constellation(cluster.a, devices[0].client_id)
    assert (await cluster.a.post(DRAIN)).status_code == 202
    assert [(await peer.until_closed()).code for peer in (*devices, boss)] == [1012] * 6

    async def done() -> bool:
        return bool((await drain_of(cluster.a))["done"])

    await eventually(done, "the drain is over")
    assert "draining" in await cluster.a.unready()
    assert (await cluster.a.get("/livez")).status_code == 200

    async def told() -> bool:
        nodes = accepted(await cluster.b.get("/api/nodes"))["nodes"]
        return {n["node_id"].partition(".")[0]: n["draining"] for n in nodes} == {"node-a": True, "node-b": False}

    await eventually(told, "every node says that this one drains")
    refused = await http.get(
        f"{cluster.a.process.url}/ws",
        headers={
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        },
    )
    assert (refused.status_code, refused.headers["Retry-After"].isdigit()) == (503, True)

    # Those who moved are served, also through the drained node.
    again = await guests.device(cluster.b, devices[0].client_id)
    answer = await cluster.a.dispatch(again.client_id, WORK)
    assert (await cluster.b.done(answer["task_name"]))["state"] == "completed"

    taken_back = await http.delete(f"{cluster.a.process.url}{DRAIN}")
    assert (taken_back.status_code, taken_back.json()["draining"]) == (200, False)
    await cluster.all_ready()
    await guests.device(cluster.a)


async def test_after_a_signal_a_ufo_device_finishes_its_step_before_it_is_moved(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2, echo_wait_s=0, drain_deadline_s=FOR_EVER, **GRACE)
    device = await guests.device(cluster.a, answers=False)
    idle = await guests.device(cluster.a)
    session_id, step = await at_work(cluster.b, device)
    cluster.a.process.send_signal(signal.SIGTERM)

    assert (await idle.until_closed()).code == 1012
    await stays(lambda: device.is_open, "the device keeps its socket while it works", for_s=1.0)
    assert cluster.a.process.alive
    await device.answer(step)

    assert (await device.expect("task_end", session_id=session_id))["status"] == "completed"
    assert (await device.until_closed()).code == 1012
    assert await asyncio.to_thread(cluster.a.process.stop) == 0
    assert await cluster.b.state_of(session_id) == "completed"


async def test_without_waiting_for_it_the_step_of_a_ufo_device_is_lost(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    """The demonstration: the same, but for a deadline that leaves no time."""
    cluster = own_cluster(2, echo_wait_s=0, drain_deadline_s=0, **GRACE)
    device = await guests.device(cluster.a, answers=False)
    session_id, _ = await at_work(cluster.b, device)
    assert await asyncio.to_thread(cluster.a.process.stop) == 0
    assert (await device.until_closed()).code == 1012
    await guests.device(cluster.b, device.client_id)

    async def failed() -> bool:
        return await cluster.b.state_of(session_id) == "failed"

    await eventually(failed, "the session ends, since nobody knows what was carried out")


async def test_a_device_that_deduplicates_is_moved_at_once_and_its_session_goes_on_elsewhere(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2, drain_deadline_s=FOR_EVER, **GRACE)
    device = await guests.device(cluster.a, answers=False, echoes=False, features=OURS)
    session_id, step = await at_work(cluster.b, device)
    assert await asyncio.to_thread(cluster.a.process.stop) == 0
    assert (await device.until_closed()).code == 1012

    again = await guests.device(cluster.b, device.client_id, echoes=False, features=OURS)
    repeated = await again.expect("command", session_id=session_id)
    assert repeated["response_id"] == step["response_id"]

    async def completed() -> bool:
        return await cluster.b.state_of(session_id) == "completed"

    await eventually(completed, "the session completes on the other node")


async def test_a_second_signal_cuts_the_drain_short(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(2, echo_wait_s=0, drain_deadline_s=FOR_EVER, drain_linger_s=FOR_EVER)
    device = await guests.device(cluster.a, answers=False)
    await at_work(cluster.b, device)
    cluster.a.process.send_signal(signal.SIGTERM)

    async def waits() -> bool:
        return bool((await drain_of(cluster.a))["waiting"] == 1)

    await eventually(waits, "the device is waited for")
    assert await asyncio.to_thread(cluster.a.process.stop) == 0
    assert (await device.until_closed()).code == 1012
    # What SIGTERM began is not taken back by anybody: the node is gone, its client may come back elsewhere.
    await guests.device(cluster.b, device.client_id)


async def test_requests_on_kept_connections_are_served_until_the_last_of_them_is_given_up(
    own_cluster: MakeCluster, guests: Guests, http: httpx.AsyncClient
) -> None:
    cluster = own_cluster(2, drain_linger_s=FOR_EVER)
    device = await guests.device(cluster.b)
    # Ten connections, all kept.
    await asyncio.gather(*(cluster.a.dispatch(device.client_id, WORK) for _ in range(10)))
    cluster.a.process.send_signal(signal.SIGTERM)

    async def drains() -> bool:
        return "draining" in await cluster.a.unready()

    await eventually(drains, "the node drains")
    # Whoever keeps a connection can use it once more, and is told to keep it no longer.
    answers = await asyncio.gather(*(cluster.a.try_dispatch(device.client_id, WORK) for _ in range(5)))
    assert [(a.status_code, a.headers["Connection"]) for a in answers] == [(200, "close")] * 5
    assert await asyncio.to_thread(cluster.a.process.stop) == 0
    for answer in answers:
        assert (await cluster.b.done(answer.json()["task_name"]))["state"] == "completed"
