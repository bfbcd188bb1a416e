"""A Redis that takes no more writes (`noeviction`): refusals that say so, nothing half written, and recovery."""

import asyncio

import pytest

from tests.fault.measures import ECHO
from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.integration


def set_maxmemory(cluster: Cluster, value: int) -> None:
    for server in cluster.redis.topology.servers:
        server.client.config_set("maxmemory", value)


async def test_a_full_redis_refuses_and_keeps_nothing_of_what_it_refused(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.a)
    await cluster.b.done((await cluster.b.dispatch(device.client_id, ECHO))["task_name"])
    executed = len(device.executed)
    names = [unique("refused") for _ in range(20)]

    set_maxmemory(cluster, 1)
    leases = await cluster.b.nodes()
    for name in names:
        answer = await cluster.b.try_dispatch(device.client_id, ECHO, task_name=name)
        assert answer.status_code == 503, answer.text
        assert "memory" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0
    assert len(leases) == 2
    assert device.is_open
    # Longer than a lease: they are renewed, and a device may come, although nothing new is taken.
    await asyncio.sleep(6.0)
    assert await cluster.b.nodes() == leases
    newcomer = await guests.device(cluster.b)
    assert {device.client_id, newcomer.client_id} <= set(await cluster.a.online())
    written = [k for k in cluster.redis.key_names() for name in names if name in k]
    set_maxmemory(cluster, 0)

    assert written == []
    await cluster.all_ready()
    for name in names:
        assert (await cluster.b.get(f"/api/task_result/{name}")).status_code == 404
    assert len(device.executed) == executed
    assert device.is_open

    async def taken() -> bool:
        return (await cluster.b.try_dispatch(device.client_id, ECHO, task_name=names[0])).status_code == 200

    # Nodes look at the memory of Redis every two seconds.
    await eventually(taken, "tasks are taken again")
    assert (await cluster.b.done(names[0]))["state"] == "completed"
    assert cluster.redis.immortal_keys() == []


async def test_sessions_that_run_end_although_redis_is_full(own_cluster: MakeCluster, guests: Guests) -> None:
    """A result for which there is no memory is given up, and its session says so; all others are kept."""
    cluster = own_cluster(2)
    small, large = await guests.autonomous(cluster.a), await guests.autonomous(cluster.b)
    asked = [await cluster.b.dispatch(worker.client_id) for worker in (small, large)]
    tasks = [
        await worker.expect("task", session_id=answer["session_id"])
        for worker, answer in zip((small, large), asked, strict=True)
    ]
    await small.report(tasks[0], "continue", "half way")

    set_maxmemory(cluster, 1)
    await small.report(tasks[0], "completed", "the answer")
    await large.report(tasks[1], "completed", "x" * 200_000)
    ended = [await cluster.a.done(answer["task_name"], wait_s=PATIENCE_S) for answer in asked]
    assert ended[0]["state"] == "completed"
    assert "the answer" in str(ended[0]["result"])
    assert ended[1]["state"] == "failed"
    assert "Redis is out of memory" in ended[1]["error"]

    set_maxmemory(cluster, 0)
    await cluster.all_ready()
