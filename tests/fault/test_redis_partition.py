"""A line to Redis that stands and carries nothing: calls fail in time, others go on, and nobody has two owners."""

import asyncio
import time
from functools import partial

import pytest

from devtools.proxy import Proxy
from tests.fault.measures import ECHO
from tests.integration.conftest import MakeCluster
from tests.integration.harness.guests import Guests
from tests.integration.harness.patience import SLACK, eventually, vanishes
from tests.integration.harness.redis_servers import needs_single_redis

pytestmark = [
    pytest.mark.integration,
    needs_single_redis(
        "The proxy stands before one server; where there are several, a node learns of them and goes past it."
    ),
]

# Four and a half seconds by the settings, and what a busy machine adds.
ANSWERS_S = 8.0


async def test_a_node_without_redis_answers_in_time_and_its_devices_have_one_owner_afterwards(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(1)
    async with Proxy(cluster.redis.port) as hole:
        node = cluster.launch_another("node-cut", redis_url=hole.redis_url)
        await cluster.all_ready()
        devices = [await guests.device(node) for _ in range(3)]
        elsewhere = await guests.device(cluster.a)

        cut = await node.node_id()

        hole.swallow()
        for _ in range(2):
            began = time.monotonic()
            answers = await asyncio.gather(
                node.get("/readyz"), *(node.try_dispatch(elsewhere.client_id, ECHO) for _ in range(30))
            )
            print(f"30 dispatches without Redis: answered within {time.monotonic() - began:.1f} s")
            assert time.monotonic() - began < ANSWERS_S * SLACK
            assert {a.status_code for a in answers} == {503}
            assert (await node.get("/livez")).status_code == 200
        assert (await cluster.a.done((await cluster.a.dispatch(elsewhere.client_id, ECHO))["task_name"]))["state"] == (
            "completed"
        )
        # The lease runs out, and the other node settles what this one held.
        await vanishes(lambda: cluster.redis.mentions(cut), "the node that was cut off is taken for dead", within_s=20)
        hole.stop_swallowing()

        await cluster.all_ready(within_s=20)
        for device in devices:
            if not device.is_open:
                device = await guests.device(node, device.client_id)  # noqa: PLW2901
            holder = await eventually(partial(cluster.a.holder_of, device.client_id), "somebody holds the device")
            assert holder == await node.node_id()
            answer = await cluster.a.dispatch(device.client_id, ECHO)
            assert (await cluster.a.done(answer["task_name"]))["state"] == "completed"
        assert cluster.redis.immortal_keys() == []
