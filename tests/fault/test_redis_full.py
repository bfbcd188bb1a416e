"""A Redis that takes no more writes (`noeviction`): refusals that say so, nothing half written, and recovery."""

import asyncio

import pytest

from tests.fault.measures import ECHO
from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import eventually

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
