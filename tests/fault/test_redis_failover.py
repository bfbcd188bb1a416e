"""A primary that is demoted, and one that dies, under load; what was acknowledged is counted before and after.

Replicas follow behind their primary: what it acknowledged in its last moments may be gone, and how much of that was
lost here is printed, not asserted (docs/REDIS.md has the counts, and why). What is asserted is that it goes on.
"""

import asyncio
from pathlib import Path

import pytest

from devtools.topologies import Cluster as ClusterServers
from devtools.topologies import Sentinel
from tests.fault.measures import Load
from tests.integration.conftest import MakeCluster
from tests.integration.harness.guests import Guests
from tests.integration.harness.redis_servers import RedisServers

pytestmark = pytest.mark.integration

# UFO's own client gives up after about half a minute.
GIVES_UP_S = 30.0


@pytest.mark.parametrize(
    ("kind", "min_replicas"),
    [(Sentinel, 0), (Sentinel, 1), (Sentinel, 2), (ClusterServers, 0), (ClusterServers, 1)],
    ids=["sentinel-0", "sentinel-1", "sentinel-2", "cluster-0", "cluster-1"],
)
async def test_two_failovers_under_load_end_with_a_cluster_that_serves(
    own_cluster: MakeCluster,
    guests: Guests,
    tmp_path: Path,
    kind: type[Sentinel] | type[ClusterServers],
    min_replicas: int,
) -> None:
    topology = kind(tmp_path / "redis")
    # While its node does not hear the new primary yet, hundreds of tasks wait for the device: not what is asked here.
    settings = {"min_replicas": min_replicas, "max_sessions_per_device": 1000}
    cluster = own_cluster(2, RedisServers(tmp_path, topology), **settings)
    device = await guests.device(cluster.a)

    async with Load(cluster, device.client_id) as load:
        await load.goes_on()
        # In threads: the devices and the load live on this event loop.
        await asyncio.to_thread(topology.failover)
        await load.goes_on()
        await asyncio.to_thread(topology.wait_until_healthy)
        between = len(load.accepted)
        dead = await asyncio.to_thread(topology.kill_primary)
        await asyncio.to_thread(topology.await_failover, dead)
        if (kind, min_replicas) in {(Sentinel, 2), (ClusterServers, 1)}:
            # The new primary has too few behind it until the old one is back, and accepts nothing durable so long.
            await asyncio.to_thread(topology.restart, dead)
        await load.goes_on()

    await cluster.all_ready(within_s=30)
    demoted, crashed = await load.states(0, between), await load.states(between)
    states = demoted + crashed
    print(f"{topology.kind}, min_replicas {min_replicas}:", end=" ")
    print(f"{dict(demoted)} around the demotion, {dict(crashed)} around the crash;", end=" ")
    print(f"refused {load.refused.total()}; longest without an accepted task {load.longest_gap_s:.1f} s")
    assert load.longest_gap_s < GIVES_UP_S
    assert set(states) <= {"completed", "lost", "failed", "cancelled", "pending"}
    assert states["completed"] > len(load.accepted) / 2
    assert {reason[:3] for reason in load.refused} <= {"503", "409"}, load.refused
