"""Redis goes, freezes, forgets, or cuts connections: nodes say so, live on, and recover by themselves."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, Node, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import SLACK, eventually
from tests.integration.harness.redis_servers import RedisServers
from tests.integration.harness.ufo import UfoDevice

pytestmark = pytest.mark.integration

ECHO = command("echo", text="hello")
# Longer than a node may wait for Redis, twice, or for its pauses between attempts; and what a busy machine adds.
RECOVERS_S = ANSWERS_S = 30.0


def says_only(answer: httpx.Response, status: int) -> str:
    """The reason in an answer: one sentence, nothing of the inside."""
    assert answer.status_code == status, answer.text
    reason = str(answer.json().get("reason") or answer.json().get("detail"))
    for secret in ("Traceback", "Error", "127.0.0.1", "redis://", ".py"):
        assert secret not in answer.text
    return reason


async def runs(cluster: Cluster, client_id: str, *, through: Node) -> None:
    """A task for the device runs to its end."""
    answer = await through.dispatch(client_id, ECHO)
    assert (await cluster.nodes[-1].done(answer["task_name"]))["state"] == "completed"


@contextmanager
def cutting(redis: RedisServers, *kinds: str) -> Iterator[None]:
    """Cut all connections of these kinds again and again, as fast as Redis can."""
    stop = threading.Event()

    def cut() -> None:
        while not stop.is_set():
            for kind in kinds:
                redis.kill_clients(kind)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def deaf(cluster: Cluster, node: Node) -> Iterator[None]:
    """While this lasts, what is published for `node` is lost: it is frozen, and its subscription cut."""
    node.process.freeze()
    try:
        cluster.redis.kill_clients("pubsub")
        yield
    finally:
        node.process.thaw()


async def test_without_redis_a_node_is_alive_unhealthy_and_refuses_and_recovers_by_itself(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)

    cluster.redis.shut_down(keep_data=True)

    for node in cluster.nodes:
        assert "Redis" in says_only(await node.get("/api/health"), 503)
        assert "Redis" in says_only(await node.get("/readyz"), 503)
        assert (await node.get("/livez")).status_code == 200
        refused = await node.try_dispatch(device.client_id, ECHO)
        assert "Redis" in says_only(refused, 503)
        assert int(refused.headers["retry-after"]) > 0
        says_only(await node.get("/api/clients"), 503)
        says_only(await node.get("/api/task_result/x", wait=5), 503)
    session_id = await galaxy.task(ECHO)
    assert "Redis" in (await galaxy.expect("error", session_id=session_id))["error"]
    await device.still_served()

    cluster.redis.start()

    await cluster.all_ready()
    await runs(cluster, device.client_id, through=cluster.b)
    await galaxy.task(ECHO)
    assert (await galaxy.expect("task_end", session_id=session_id))["status"] == "completed"
    assert cluster.redis.immortal_keys() == []


async def test_a_frozen_redis_is_noticed_in_bounded_time(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(2, redis_timeout_s=1)
    device = await guests.device(cluster.a)

    cluster.redis.freeze()
    answers = await asyncio.wait_for(
        asyncio.gather(
            cluster.a.get("/readyz"), cluster.b.get("/api/health"), cluster.b.try_dispatch(device.client_id, ECHO)
        ),
        ANSWERS_S * SLACK,
    )
    cluster.redis.thaw()

    for answer in answers:
        says_only(answer, 503)
    await cluster.all_ready()
    await runs(cluster, device.client_id, through=cluster.b)


async def test_what_a_session_does_while_redis_is_away_is_stored_once_it_is_back(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.a, answers=False)
    leaver = await guests.device(cluster.a)
    answer = await cluster.b.dispatch(device.client_id, ECHO)
    abandoned = await cluster.b.dispatch(leaver.client_id, command("hang"))
    commands = await device.expect("command")
    await leaver.expect("command")

    cluster.redis.shut_down(keep_data=True)
    await device.answer(commands)
    await leaver.abort()
    await asyncio.sleep(1)
    cluster.redis.start()

    await cluster.all_ready()
    assert (await cluster.b.done(answer["task_name"]))["state"] == "completed"
    assert (await cluster.b.done(abandoned["task_name"]))["state"] == "cancelled"
    assert leaver.client_id not in await cluster.b.online()
    assert device.client_id in await cluster.b.online()


async def test_after_redis_has_lost_everything_devices_are_reachable_again_on_their_old_sockets(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    devices = [await guests.device(node) for node in cluster.nodes for _ in range(3)]
    galaxy = await guests.constellation(cluster.b, devices[0].client_id)

    # Something that nobody brings back, as nodes bring back their clients: perhaps before we can look.
    cluster.redis.topology.holder("aip:{lost}").client.set("aip:{lost}", "1", ex=600)
    cluster.redis.shut_down(keep_data=False)
    cluster.redis.start()
    assert cluster.redis.key_names("aip:{lost}") == []

    expected = sorted([*(d.client_id for d in devices), galaxy.client_id])

    async def back() -> bool:
        answer = await cluster.a.get("/api/clients")
        return answer.status_code == 200 and answer.json()["online_clients"] == expected

    await eventually(back, "everybody is registered again", within_s=RECOVERS_S)
    await cluster.all_ready()
    for device in devices:
        assert device.is_open
        await runs(cluster, device.client_id, through=cluster.a)
        await runs(cluster, device.client_id, through=cluster.b)
    session_id = await galaxy.task(ECHO)
    assert (await galaxy.expect("task_end", session_id=session_id))["status"] == "completed"
    listed = (await cluster.b.get(f"/api/clients/{devices[0].client_id}")).json()
    assert listed["profile"]["system_info"]["cpu_count"] == 8
    assert cluster.redis.immortal_keys() == []


async def test_a_flush_of_the_scripts_goes_unnoticed(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.a)

    for _ in range(5):
        cluster.redis.flush_scripts()
        await runs(cluster, device.client_id, through=cluster.b)

    await guests.device(cluster.b)


async def test_tasks_whose_wake_up_was_lost_arrive_all_the_same_once_and_in_order(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.a)
    tokens = [unique("token") for _ in range(20)]

    with cutting(cluster.redis, "pubsub"):
        answers = [await cluster.b.dispatch(device.client_id, command("echo", token=t)) for t in tokens]

    for answer in answers:
        assert (await cluster.b.done(answer["task_name"]))["state"] == "completed"
    assert [f["session_id"] for f in device.heard if f["type"] == "task"] == [a["session_id"] for a in answers]
    assert sorted(a["parameters"]["token"] for a in device.executed) == sorted(tokens)


async def test_nodes_whose_connections_are_cut_again_and_again_are_well_again_afterwards(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(3)
    devices = [await guests.device(node) for node in cluster.nodes]

    with cutting(cluster.redis, "pubsub", "normal"):
        await asyncio.sleep(3)

    await cluster.all_ready()
    for device in devices:
        await runs(cluster, device.client_id, through=cluster.a)


async def test_nodes_outlive_one_restart_of_redis_after_another(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(3)
    device = await guests.device(cluster.a)

    for _ in range(8):
        cluster.redis.shut_down(keep_data=True)
        cluster.redis.start()
        await asyncio.sleep(0.2)

    await cluster.all_ready()
    await runs(cluster, device.client_id, through=cluster.b)


async def test_tasks_that_a_node_could_not_hear_of_arrive_once_it_hears_again_in_order(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.a)

    for _ in range(2):
        with deaf(cluster, cluster.a):
            answers = [await cluster.b.dispatch(device.client_id, ECHO) for _ in range(3)]

        for answer in answers:
            task = await device.expect("task")
            assert task["session_id"] == answer["session_id"]
            assert (await cluster.b.done(answer["task_name"]))["state"] == "completed"


async def test_an_end_that_a_node_could_not_hear_of_reaches_its_readers_and_requesters(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.a, answers=False)
    galaxy = await guests.constellation(cluster.b, device.client_id)
    session_id = await galaxy.task(ECHO)
    commands = await device.expect("command", session_id=session_id)
    reader = asyncio.create_task(cluster.b.done(f"galaxy/{galaxy.name}/step3", wait_s=15))
    await asyncio.sleep(0.3)

    with deaf(cluster, cluster.b):
        await device.answer(commands)
        await device.expect("task_end", session_id=session_id)

    assert (await galaxy.expect("task_end", session_id=session_id))["status"] == "completed"
    assert (await reader)["state"] == "completed"


async def test_a_cancellation_that_a_node_could_not_hear_of_stops_its_device_all_the_same(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.a, answers=False)
    answer = await cluster.b.dispatch(device.client_id, ECHO)
    await device.expect("command")

    with deaf(cluster, cluster.a):
        assert (await cluster.b.cancel(answer["session_id"]))["cancelled"]

    end = await device.expect("task_end", session_id=answer["session_id"])
    assert (end["status"], end["error"]) == ("failed", "Task was cancelled on request")


async def test_cut_connections_cost_no_accepted_task_and_no_task_runs_twice(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    devices = [await guests.device(cluster.nodes[i % 2]) for i in range(6)]
    tokens = [unique("token") for _ in range(150)]
    answers: list[httpx.Response] = []
    gate = asyncio.Semaphore(20)

    async def send(i: int, token: str) -> None:
        async with gate:
            dispatch = cluster.nodes[i % 2].try_dispatch(
                devices[i % 6].client_id, command("echo", token=token), task_name=token
            )
            answers.append(await asyncio.wait_for(dispatch, ANSWERS_S * SLACK))

    with cutting(cluster.redis, "normal"):
        await asyncio.gather(*(send(i, token) for i, token in enumerate(tokens)))

    await cluster.all_ready()
    assert {a.status_code for a in answers} <= {200, 503}, {a.text for a in answers if a.status_code not in {200, 503}}
    accepted = [a.json()["task_name"] for a in answers if a.status_code == 200]
    for name in accepted:
        assert (await cluster.a.done(name))["state"] == "completed"
    executed = [a["parameters"]["token"] for d in devices for a in d.executed]
    assert len(executed) == len(set(executed))
    assert set(accepted) <= set(executed)


async def test_nodes_that_started_before_redis_join_once_it_is_there_and_lose_no_task(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(1)
    cluster.redis.shut_down(keep_data=False)
    early = [cluster.launch_another(f"early-{i}") for i in range(6)]
    for node in early:
        node.process.wait_until("/livez")
        says_only(await node.get("/readyz"), 503)
    # So long that the pauses between their attempts have grown to the longest.
    await asyncio.sleep(3)

    cluster.redis.start()

    await asyncio.gather(*(first_task_runs(guests, node) for node in early))
    await cluster.all_ready()


async def first_task_runs(guests: Guests, node: Node) -> None:
    """A device registers as soon as the node can, and the first task that the node takes for it runs to its end."""

    async def reaches_redis() -> bool:
        return (await node.get("/api/clients")).status_code == 200

    await eventually(reaches_redis, "the node reaches Redis", within_s=RECOVERS_S)

    async def registered() -> UfoDevice | None:
        # Until it holds a lease it refuses sockets before their upgrade.
        with suppress(InvalidStatus):
            return await guests.device(node)
        return None

    device = await eventually(registered, "the node takes a device", within_s=RECOVERS_S)
    assert device is not None

    async def taken() -> str:
        answer = await node.try_dispatch(device.client_id, ECHO)
        return str(answer.json()["task_name"]) if answer.status_code == 200 else ""

    task_name = await eventually(taken, "the node takes a task", within_s=RECOVERS_S)
    assert (await node.done(task_name))["state"] == "completed"
