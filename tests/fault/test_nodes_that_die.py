"""Nodes that are killed or frozen: their devices go on elsewhere, nothing runs twice, registry and sockets agree."""

import asyncio
import time

import pytest
from redis import Redis
from redis.client import Monitor

from devtools.proxy import Proxy
from tests.fault.conftest import MakeAgent
from tests.fault.devices import Agent, state_becomes
from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, command
from tests.integration.harness.guests import Guests
from tests.integration.harness.patience import PATIENCE_S, SLACK, eventually, stays, vanishes
from tests.support.features import OURS
from tests.support.tasks import GONE

pytestmark = pytest.mark.integration

GRACE_S = 30


async def _agree(cluster: Cluster, client_id: str) -> None:
    """Every node names the same holder, and Redis does."""
    holders = {await node.holder_of(client_id) for node in cluster.nodes if node.process.alive}
    assert len(holders) == 1
    assert cluster.redis.registration(client_id)["node_id"] in holders


async def test_sessions_of_a_node_killed_in_their_midst_complete_on_another(
    own_cluster: MakeCluster, agent: MakeAgent
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S)
    async with Proxy(cluster.a.process.port) as cable:
        devices = [agent(cable.ws_url) for _ in range(2)]
        tasks = []
        for device in devices:
            await device.on(cluster.a)
            tasks.append(await cluster.b.dispatch(device.device_id, device.mark("once", hold=True)))
        for device in devices:
            await device.begun("once")
        dead = await cluster.a.node_id()
        cable.plug_into(cluster.b.process.port)
        cluster.a.process.kill()
        killed_at = time.monotonic()
        for device in devices:
            await device.on(cluster.b)
        back_s = time.monotonic() - killed_at
        await vanishes(lambda: cluster.redis.mentions(dead), "Redis does not name the dead node", within_s=15)
        print(f"back on another node after {back_s:.1f} s, settled after {time.monotonic() - killed_at:.1f} s")
        for device, task in zip(devices, tasks, strict=True):
            device.release()
            done = await cluster.b.done(task["task_name"], wait_s=40)
            assert (done["state"], done["error"]) == ("completed", None)
            assert device.times("once") == 1
    assert cluster.redis.immortal_keys() == []


async def test_without_grace_the_sessions_of_a_killed_node_are_cancelled(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=0)
    device = await guests.device(cluster.a, features=OURS, echoes=False)
    task = await cluster.b.dispatch(device.client_id, command("hang"))
    await device.expect("command")
    cluster.a.process.kill()
    assert (await cluster.b.done(task["task_name"]))["state"] == "cancelled"


async def test_devices_of_a_killed_node_that_do_not_come_back_are_gone_after_the_grace(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    """Away first, as if every socket had broken; then ended, once, by any of the others."""
    cluster = own_cluster(3, reconnect_grace_s=2)
    devices = [await guests.device(cluster.a) for _ in range(5)]
    galaxies = [await guests.constellation(cluster.b, d.client_id) for d in devices]
    sessions = [await g.task(command("hang")) for g in galaxies]
    for device in devices:
        await device.expect("command")
    cluster.a.process.kill()
    for galaxy, session_id in zip(galaxies, sessions, strict=True):
        end = await galaxy.expect("task_end", session_id=session_id, within_s=30)
        assert end["error"] == GONE
        steps = [s["event"] for s in (await cluster.c.session(session_id))["steps"]]
        assert (steps.count("suspended"), steps.count("ended")) == (1, 1)
        assert galaxy.count("task_end") == 1


def _reaper(commands: Monitor, dead: str) -> str:
    """The node that settles the dead one, once it has begun with a hundred of the clients that were there."""
    reaper, begun = "", 0
    while begun < 100:
        said = str(commands.next_command()["command"])  # type: ignore[no-untyped-call]
        match said.split():
            case ["SET", "aip:{nodes}:reaper", node_id, *_] if not reaper:
                # The first that asks is let.
                reaper = node_id
            case ["EVALSHA", *_] if reaper and dead in said:
                begun += 1
    return reaper


async def test_a_reaper_that_dies_half_way_is_followed_by_another(own_cluster: MakeCluster, guests: Guests) -> None:
    """Of three nodes the first is killed, and whoever settles it is killed in the midst of that."""
    cluster = own_cluster(3, reconnect_grace_s=2)
    devices = [await guests.device(cluster.a) for _ in range(300)]
    busy = devices[::30]
    tasks = [await cluster.b.dispatch(d.client_id, command("hang")) for d in busy]
    for device in busy:
        await device.expect("command")
    dead = await cluster.a.node_id()
    ids = {await node.node_id(): node for node in (cluster.b, cluster.c)}
    # Told by Redis: who looks into it from time to time may miss a reaper that is quick.
    redis = Redis(port=cluster.redis.port, socket_timeout=PATIENCE_S * SLACK, protocol=2)
    with redis, redis.monitor() as commands:  # type: ignore[no-untyped-call]
        cluster.a.process.kill()
        victim = ids.pop(await asyncio.to_thread(_reaper, commands, dead))
    victim.process.kill()
    listed = f"aip:{{node:{dead}}}:clients"
    left = cluster.redis.topology.holder(listed).client.hlen(listed)
    print(f"the reaper was killed; the dead node's list had {left} of 300 clients")
    survivor = next(iter(ids.values()))
    await vanishes(lambda: cluster.redis.mentions(dead), "the dead node is settled", within_s=30)
    for task in tasks:
        assert (await survivor.done(task["task_name"], wait_s=40))["state"] == "cancelled"
    for device in devices:
        assert not cluster.redis.registration(device.client_id)


async def test_a_node_frozen_beyond_its_lease_carries_on_nothing_that_went_on_elsewhere(
    own_cluster: MakeCluster, agent: MakeAgent
) -> None:
    """A device's answer reaches the frozen node's socket buffer first; thawed, it may neither end nor repeat a step."""
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S)
    async with Proxy(cluster.a.process.port) as cable:
        device = agent(cable.ws_url)
        await device.on(cluster.a)
        task = await cluster.b.dispatch(
            device.device_id, device.mark("first", hold=True), device.mark("second"), device.mark("third")
        )
        await device.begun("first")
        frozen = await cluster.a.node_id()
        cluster.a.process.freeze()
        await vanishes(lambda: cluster.redis.mentions(frozen), "the frozen node is taken for dead", within_s=20)
        await state_becomes(cluster.b, task["session_id"], "suspended")
        cable.plug_into(cluster.b.process.port)
        cable.cut()
        await device.on(cluster.b)
        owner = cluster.redis.registration(device.device_id)
        cluster.a.process.thaw()
        device.release()
        done = await cluster.b.done(task["task_name"], wait_s=40)
        assert (done["state"], done["error"]) == ("completed", None)
        await stays(
            lambda: cluster.redis.registration(device.device_id)["connection_id"] == owner["connection_id"],
            "the newer socket holds the device",
            for_s=2,
        )
        assert [device.times(n) for n in ("first", "second", "third")] == [1, 1, 1]
        await cluster.all_ready(within_s=20)
        await _agree(cluster, device.device_id)
        again = await cluster.a.dispatch(device.device_id, device.mark("again"))
        assert (await cluster.b.done(again["task_name"]))["state"] == "completed"


async def test_a_device_that_stayed_on_a_node_frozen_beyond_its_lease_gets_what_was_accepted_meanwhile(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S)
    device = await guests.device(cluster.a, features=OURS, echoes=False)
    held = await cluster.b.dispatch(device.client_id, command("echo"))
    await cluster.b.done(held["task_name"])
    frozen = await cluster.a.node_id()
    cluster.a.process.freeze()
    await vanishes(lambda: cluster.redis.mentions(frozen), "the frozen node is taken for dead", within_s=20)
    tasks = [await cluster.b.dispatch(device.client_id, command("echo", n=n)) for n in range(3)]
    cluster.a.process.thaw()
    for task in tasks:
        assert (await cluster.b.done(task["task_name"], wait_s=30))["state"] == "completed"
    assert [a["parameters"].get("n") for a in device.executed] == [None, 0, 1, 2]
    await _agree(cluster, device.client_id)


async def test_under_load_every_task_of_recognising_devices_completes_once_though_a_node_is_killed(
    own_cluster: MakeCluster, agent: MakeAgent
) -> None:
    cluster = own_cluster(3, reconnect_grace_s=GRACE_S)
    async with Proxy(cluster.a.process.port) as first, Proxy(cluster.b.process.port) as second:
        devices = [agent(cable.ws_url) for cable in (first, second, first)]
        for device in devices:
            await device.on(cluster.b if device is devices[1] else cluster.a)
        accepted: list[tuple[Agent, str, str]] = []

        async def load(n: int) -> None:
            for i in range(12):
                device, name = devices[(n + i) % 3], f"m{n}-{i}"
                answer = await cluster.c.try_dispatch(device.device_id, device.mark(name))
                assert answer.status_code == 200, answer.text
                accepted.append((device, name, answer.json()["task_name"]))
                if (n, i) == (0, 4):
                    first.plug_into(cluster.c.process.port)
                    cluster.a.process.kill()
                await asyncio.sleep(0.05)

        await asyncio.gather(*(load(n) for n in range(4)))
        states = [(await cluster.c.done(task, wait_s=50))["state"] for _, _, task in accepted]
        assert states == ["completed"] * len(accepted)
        assert [d.times(name) for d, name, _ in accepted] == [1] * len(accepted)
    assert cluster.redis.immortal_keys() == []


async def test_a_node_killed_again_and_again_leaves_no_key_and_no_process_behind(
    own_cluster: MakeCluster, agent: MakeAgent
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=GRACE_S)
    async with Proxy(cluster.a.process.port) as cable:
        device = agent(cable.ws_url)
        await device.on(cluster.a)
        for round_ in range(3):
            here, there = cluster.nodes if round_ % 2 == 0 else cluster.nodes[::-1]
            task = await there.dispatch(device.device_id, device.mark(f"r{round_}"))
            cable.plug_into(there.process.port)
            here.process.kill()
            done = await there.done(task["task_name"], wait_s=50)
            assert done["state"] == "completed"
            assert device.times(f"r{round_}") == 1
            here.process.launch()
            here.process.wait_until("/readyz")

        async def one_list() -> bool:
            return len(cluster.redis.key_names("aip:{node:*}:clients")) <= 2

        await eventually(one_list, "only live nodes have lists", within_s=20)
    assert cluster.redis.immortal_keys() == []
