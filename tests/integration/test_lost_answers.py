"""Redis did what it was asked, and its answer was lost on the way: nothing is done twice, nothing is left half done."""

import pytest

from devtools.proxy import Proxy
from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Node, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import eventually
from tests.integration.harness.redis_servers import needs_single_redis

pytestmark = [
    pytest.mark.integration,
    needs_single_redis(
        "The proxy stands before one server; where there are several, a node learns of them and goes past it."
    ),
]

# Of a dispatch under a name that nobody has: one. Under that of a task that has ended: a start that finds it held, two
# that ask for it, one that claims it, and the start.
ROUND_TRIPS = [(False, 1), *((True, nth) for nth in range(1, 6))]


async def warm_up(node: Node, client_id: str) -> None:
    """Run a task, so that Redis has every script and the next task takes no round trip more than it must."""
    answer = await node.dispatch(client_id, command("echo", token="warm"))
    assert (await node.done(answer["task_name"]))["state"] == "completed"


@pytest.mark.parametrize(("held", "nth"), ROUND_TRIPS)
async def test_a_dispatch_whose_answer_from_redis_was_lost_is_accepted_or_can_be_repeated(
    own_cluster: MakeCluster, guests: Guests, held: bool, nth: int
) -> None:
    cluster = own_cluster(1)
    async with Proxy(cluster.redis.port) as proxy:
        lossy = cluster.launch_another("node-lossy", redis_url=proxy.redis_url)
        await cluster.all_ready()
        device = await guests.device(cluster.a)
        await warm_up(lossy, device.client_id)
        name = unique("task")
        body = command("echo", token=name)
        if held:
            await lossy.dispatch(device.client_id, command("echo", token="before"), task_name=name)
            assert (await lossy.done(name))["state"] == "completed"

        proxy.lose(name, nth=nth)
        answer = await lossy.try_dispatch(device.client_id, body, task_name=name, request=name)
        assert proxy.lost == 1

        assert answer.status_code in {200, 503}, answer.text
        if answer.status_code == 503:

            async def repeated() -> bool:
                again = await lossy.try_dispatch(device.client_id, body, task_name=name, request=name)
                return again.status_code == 200

            await eventually(repeated, "the same task can be dispatched again")
        assert (await cluster.a.done(name))["state"] == "completed"
        if answer.status_code == 200:
            await device.still_served()
            assert [a["parameters"]["token"] for a in device.executed].count(name) == 1
        assert cluster.redis.immortal_keys() == []


@pytest.mark.parametrize("state", ["completed", "failed"])
async def test_an_end_whose_answer_from_redis_was_lost_is_told_to_the_requester_once(
    own_cluster: MakeCluster, guests: Guests, state: str
) -> None:
    cluster = own_cluster(1)
    async with Proxy(cluster.redis.port) as proxy:
        lossy = cluster.launch_another("node-lossy", redis_url=proxy.redis_url)
        await cluster.all_ready()
        await warm_up(lossy, (await guests.device(lossy)).client_id)
        worker = await guests.autonomous(lossy)
        galaxy = await guests.constellation(cluster.a, worker.client_id)
        session_id = await galaxy.task()
        task = await worker.expect("task")

        mark = unique("outcome")
        proxy.lose(mark, nth=1)
        await worker.report(task, state, mark, error=mark if state == "failed" else None)

        assert (await galaxy.expect("task_end", session_id=session_id))["status"] == state
        assert proxy.lost == 1
        assert (await cluster.a.done(f"galaxy/{galaxy.name}/step3"))["state"] == state
        await galaxy.still_served()
        assert galaxy.count("task_end") == 1


async def test_a_registration_whose_answer_from_redis_was_lost_is_accepted_or_can_be_repeated(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(1)
    async with Proxy(cluster.redis.port) as proxy:
        lossy = cluster.launch_another("node-lossy", redis_url=proxy.redis_url)
        await cluster.all_ready()
        await guests.device(lossy)
        name = unique("device")

        proxy.lose(name, nth=1)
        first = await guests.socket(lossy, name)
        await first.send({"type": "register", "client_id": name, "client_type": "device"})
        if (await first.first_answer())["type"] == "heartbeat":
            await first.still_served()
            await first.close()
        assert proxy.lost == 1

        async def again() -> bool:
            socket = await guests.socket(cluster.a, name)
            await socket.send({"type": "register", "client_id": name, "client_type": "device"})
            return bool((await socket.first_answer())["type"] == "heartbeat")

        await eventually(again, "the device is let in")
