"""A Redis that takes no more writes (`noeviction`): refusals that say so, nothing half written, and recovery."""

import pytest

from tests.fault.measures import ECHO
from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster
from tests.integration.harness.guests import Guests, unique

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
    for name in names:
        answer = await cluster.b.try_dispatch(device.client_id, ECHO, task_name=name)
        assert answer.status_code == 503, answer.text
        assert "memory" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0
    written = [k for k in cluster.redis.key_names() for name in names if name in k]
    set_maxmemory(cluster, 0)

    assert written == []
    await cluster.all_ready()
    for name in names:
        assert (await cluster.b.get(f"/api/task_result/{name}")).status_code == 404
    assert len(device.executed) == executed
    if not device.is_open:
        device = await guests.device(cluster.a, device.client_id)
    accepted = await cluster.b.dispatch(device.client_id, ECHO, task_name=names[0])
    assert (await cluster.b.done(accepted["task_name"]))["state"] == "completed"
    assert cluster.redis.immortal_keys() == []
