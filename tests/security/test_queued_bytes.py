"""Tasks for devices that never existed: they fill their quota, and neither Redis nor the cluster."""

import pytest

from tests.fault.measures import ECHO
from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, command
from tests.integration.harness.guests import Guests, unique

pytestmark = pytest.mark.integration

MIB = 1024 * 1024
TASKS = 60
# Each part of a task as large as it may be: two thirds of a megabyte.
LARGEST = command("echo", text="x" * 500_000)
PARTS = {"request": "x" * 65_000, "metadata": {"note": "x" * 65_000}, "queue_if_offline": True, "ttl_s": 86_400}


def used_memory(cluster: Cluster) -> int:
    """Of the servers that take writes: replicas hold the same once more."""
    infos = [server.client.info() for server in cluster.redis.topology.servers]
    return sum(int(info["used_memory"]) for info in infos if info["role"] == "master")


async def assert_serves(cluster: Cluster, guests: Guests, leases: list[str]) -> None:
    assert await cluster.a.nodes() == leases
    device = await guests.device(cluster.a)
    ended = await cluster.b.done((await cluster.b.dispatch(device.client_id, ECHO))["task_name"])
    assert ended["state"] == "completed"


async def test_large_tasks_for_one_absent_device_are_bounded(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(2)
    leases, before = await cluster.a.nodes(), used_memory(cluster)
    absent = unique("absent")
    answers = [await cluster.a.try_dispatch(absent, LARGEST, **PARTS) for _ in range(TASKS)]

    statuses = [answer.status_code for answer in answers]
    assert statuses == [200] * statuses.count(200) + [429] * statuses.count(429)
    assert statuses.count(200) * 600_000 < 8 * MIB, f"{statuses.count(200)} tasks wait"
    assert "(max_queued_bytes_per_client)" in answers[-1].json()["detail"]
    assert answers[-1].headers["retry-after"] == "30"
    assert used_memory(cluster) - before < 24 * MIB
    await assert_serves(cluster, guests, leases)


async def test_large_tasks_for_many_devices_that_never_existed_are_bounded(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2, max_queued_bytes=16 * MIB)
    leases, before = await cluster.a.nodes(), used_memory(cluster)
    nodes = (cluster.a, cluster.b)
    answers = [await nodes[n % 2].try_dispatch(unique("absent"), LARGEST, **PARTS) for n in range(TASKS)]

    accepted = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(accepted) + len(refused) == TASKS
    assert len(accepted) * 600_000 < 16 * MIB
    assert "(max_queued_bytes)" in refused[0].json()["detail"]
    assert used_memory(cluster) - before < 40 * MIB
    await assert_serves(cluster, guests, leases)
    assert cluster.redis.immortal_keys() == []


async def test_tasks_of_two_megabytes_are_refused_whole(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(2)
    leases = await cluster.a.nodes()
    answers = [
        await cluster.a.try_dispatch(unique("absent"), request="x" * 2_000_000, queue_if_offline=True)
        for _ in range(TASKS)
    ]
    assert {answer.status_code for answer in answers} == {413}
    await assert_serves(cluster, guests, leases)
