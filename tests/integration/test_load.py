"""Much at once, and much in one piece: nothing is lost, nothing is mixed up, nothing stays for ever."""

import asyncio
import contextlib
import re

import pytest
from websockets.exceptions import ConnectionClosed

from shared_state.keys import Keys
from tests.integration.harness.cluster import Cluster, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import vanishes
from tests.integration.harness.ufo import Result

pytestmark = pytest.mark.integration

TASKS = 200
DEVICES = 20
AT_ONCE = 50
FRAME_BOUND = 8 * 1024 * 1024


async def test_two_hundred_tasks_at_fifty_at_once_all_end_and_each_result_is_that_of_its_task(
    cluster: Cluster, guests: Guests
) -> None:
    devices = [await guests.device(cluster.nodes[i % 3]) for i in range(DEVICES)]
    gate = asyncio.Semaphore(AT_ONCE)

    async def run(i: int) -> None:
        token, device = unique("token"), devices[i % DEVICES]
        async with gate:
            answer = await cluster.nodes[i % 3].dispatch(
                device.client_id, command("echo", token=token, on=device.client_id), task_name=token
            )
            done = await cluster.nodes[(i + 1) % 3].done(token, wait_s=30)
        assert (done["state"], done["session_id"]) == ("completed", answer["session_id"])
        assert done["result"][0]["result"] == {"token": token, "on": device.client_id}

    await asyncio.gather(*(run(i) for i in range(TASKS)))

    executed = [action["parameters"]["token"] for device in devices for action in device.executed]
    assert len(executed) == len(set(executed)) == TASKS
    for device in devices:
        assert len(await cluster.a.sessions_of(device.client_id)) == TASKS // DEVICES
        assert {a["parameters"]["on"] for a in device.executed} == {device.client_id}
    assert len(cluster.redis.key_names("aip:session:*")) >= TASKS
    assert cluster.redis.immortal_keys() == []

    def waiting() -> list[str]:
        keys = [Keys().inbox(device.client_id) for device in devices]
        return [key for key in keys if cluster.redis.inbox_length(key)]

    await vanishes(waiting, "every message was handed over")


async def test_a_result_of_five_megabytes_arrives_over_rest_and_at_the_requester(
    cluster: Cluster, guests: Guests
) -> None:
    size = 5_000_000
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)

    session_id = await galaxy.task(command("big", size=size))
    end = await galaxy.expect("task_end", session_id=session_id, within_s=30)
    stored = await cluster.c.session(session_id)

    assert end["result"][0]["result"] == stored["result"][0]["result"] == "x" * size
    await device.still_served()


async def test_a_frame_over_the_bound_closes_only_its_socket_and_ends_only_its_sessions(
    cluster: Cluster, guests: Guests
) -> None:
    big, other = await guests.device(cluster.a, answers=False), await guests.device(cluster.a, answers=False)
    doomed = await cluster.b.dispatch(big.client_id, command("echo"))
    spared = await cluster.b.dispatch(other.client_id, command("echo"))
    commands, spared_commands = await big.expect("command"), await other.expect("command")

    with contextlib.suppress(ConnectionClosed):  # the node need not read it to its end
        await big.answer_with(commands, [Result(status="success", result="x" * FRAME_BOUND)])

    assert (await big.until_closed()).code == 1009
    done = await cluster.c.done(doomed["task_name"])
    assert done["state"] == "failed"
    assert re.fullmatch(rf"result too large: \d+ bytes, at most {FRAME_BOUND}", done["error"])
    await other.answer(spared_commands)
    assert (await cluster.c.done(spared["task_name"]))["state"] == "completed"
    await guests.device(cluster.c, big.client_id)


async def test_a_flood_of_messages_is_answered_in_order(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)

    asked = [await galaxy.ask_for_device(device.client_id) for _ in range(1_000)]
    answered = [(await galaxy.expect("device_info_response"))["response_id"] for _ in asked]

    assert answered == asked
    await device.still_served()
