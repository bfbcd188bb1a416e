"""A node whose subscription is dead without a word: it notices, subscribes anew, and nothing stays behind."""

import asyncio

import pytest

from devtools.proxy import Proxy
from tests.fault.measures import ECHO
from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, Node, metric
from tests.integration.harness.guests import Guests
from tests.integration.harness.patience import eventually, stays
from tests.integration.harness.redis_servers import needs_single_redis

pytestmark = [
    pytest.mark.integration,
    needs_single_redis("What is cut and paused here is one server; failovers have tests of their own."),
]

QUICK = {"probe_interval_s": 0.3, "deaf_after_s": 1.0, "redis_timeout_s": 1.5}
RESUBSCRIPTIONS = "aip_bus_resubscriptions_total"


async def resubscribed(node: Node, *, more_than: float = 0) -> None:
    """The node has subscribed anew, and is ready."""

    async def done() -> bool:
        return await metric(node, RESUBSCRIPTIONS) > more_than and not await node.unready()

    await eventually(done, "the node has subscribed anew", within_s=15)


async def all_complete(cluster: Cluster, answers: list[dict[str, str]]) -> None:
    for answer in answers:
        assert (await cluster.a.done(answer["task_name"]))["state"] == "completed"


async def test_a_half_open_subscription_is_noticed_and_what_was_missed_arrives_in_order(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(1)
    async with Proxy(cluster.redis.port) as hole:
        node = cluster.launch_another("node-deaf", redis_url=hole.redis_url, **QUICK)
        await cluster.all_ready()
        device = await guests.device(node)

        hole.swallow(only_subscriptions=True)
        answers = [await cluster.a.dispatch(device.client_id, ECHO) for _ in range(5)]
        await eventually(lambda: hole.swallowed, "wake-ups are lost")

        async def unready() -> str:
            return await node.unready()

        assert "bus" in await eventually(unready, "the node says that it is not ready")
        hole.stop_swallowing()

        await resubscribed(node)
        await all_complete(cluster, answers)
        tasks = [f["session_id"] for f in device.heard if f["type"] == "task"]
        assert tasks == [a["session_id"] for a in answers]
        assert await metric(node, "aip_bus_probe_misses_total") > 0


async def test_without_probes_a_half_open_subscription_leaves_the_node_deaf_while_it_calls_itself_ready(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    """What the probes are for."""
    cluster = own_cluster(1)
    async with Proxy(cluster.redis.port) as hole:
        node = cluster.launch_another("node-deaf", redis_url=hole.redis_url, probe_interval_s=0)
        await cluster.all_ready()
        device = await guests.device(node)
        await all_complete(cluster, [await cluster.a.dispatch(device.client_id, ECHO)])
        # A registration and a task are each followed by a look into the inbox, which needs no wake-up.
        await asyncio.sleep(1)

        hole.swallow(only_subscriptions=True)
        await cluster.a.dispatch(device.client_id, ECHO)
        # The answer may be here before the wake-up has come as far as to the hole.
        await eventually(lambda: hole.swallowed > 0, "the wake-up falls into the hole")
        hole.stop_swallowing()

        async def deaf_and_ready() -> bool:
            return not await node.unready() and device.count("task") == 1

        await stays(deaf_and_ready, "nothing arrives, and nobody notices", for_s=5)


async def test_killed_subscriptions_are_made_anew(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(2, **QUICK)
    device = await guests.device(cluster.b)
    for times in range(3):
        before = await metric(cluster.b, RESUBSCRIPTIONS)
        cluster.redis.kill_clients("pubsub")
        answer = await cluster.a.dispatch(device.client_id, ECHO)
        await all_complete(cluster, [answer])
        await resubscribed(cluster.b, more_than=before)
        assert before >= times


async def test_a_subscription_that_the_server_cut_for_its_unread_output_is_made_anew(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2, **QUICK)
    server = cluster.redis.topology.servers[0].client
    server.config_set("client-output-buffer-limit", "pubsub 1mb 0 0")
    device = await guests.device(cluster.b)
    channel = f"aip:node:{await cluster.b.node_id()}"

    cluster.b.process.freeze()
    try:
        answers = [await cluster.a.dispatch(device.client_id, ECHO)]
        flood = 0
        while server.publish(channel, b"flood\n" + b"x" * 262_144):
            flood += 1
            assert flood < 400, "the server never cut the subscription"
    finally:
        cluster.b.process.thaw()

    answers.append(await cluster.a.dispatch(device.client_id, ECHO))
    await resubscribed(cluster.b)
    await all_complete(cluster, answers)


@pytest.mark.parametrize("kind", ["ALL", "WRITE"])
async def test_a_paused_redis_costs_answers_but_no_subscription_stays_deaf(
    own_cluster: MakeCluster, guests: Guests, kind: str
) -> None:
    # A pause that outlasts the refusal, also on a busy machine; and leases that outlast the pause.
    cluster = own_cluster(2, **QUICK, lease_ttl_s=20)
    device = await guests.device(cluster.b)
    server = cluster.redis.topology.servers[0].client

    server.execute_command("CLIENT", "PAUSE", 8_000, kind)  # type: ignore[no-untyped-call]
    refused = await cluster.a.try_dispatch(device.client_id, ECHO)
    assert refused.status_code == 503, refused.text
    assert int(refused.headers["retry-after"]) > 0
    # A write is answered once the pause is over, of either kind.
    await asyncio.to_thread(server.delete, "nothing")

    await cluster.all_ready()
    if not device.is_open:
        device = await guests.device(cluster.b)
    await all_complete(cluster, [await cluster.a.dispatch(device.client_id, ECHO)])
