"""Nobody acts as somebody else: the identity given at registration holds for the socket's life."""

import pytest

from tests.integration.harness.cluster import Cluster, Node, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.peers import Frame, Peer
from tests.integration.harness.ufo import Message, UfoDevice

pytestmark = pytest.mark.integration

ECHO = command("echo")


def self_made_task(client_id: str, **fields: object) -> Frame:
    """A task as a device writes it for itself, with anything changed."""
    task: Frame = {"type": "task", "status": "continue", "client_type": "device", "client_id": client_id}
    return {**task, "request": "attack", "metadata": {"commands": [ECHO]}, **fields}


async def refused(peer: Peer, frame: Frame | Message) -> str:
    """Send a frame that is answered with an error; the socket lives on."""
    await peer.send(frame)
    error = str((await peer.expect("error", status="error"))["error"])
    await peer.still_served()
    return error


async def nothing_ran(node: Node, *devices: UfoDevice) -> None:
    for device in devices:
        await device.still_served()
        assert (device.count("task"), device.count("command")) == (0, 0)
        assert await node.sessions_of(device.client_id) == []


@pytest.mark.parametrize("kind", ["task", "heartbeat", "command_results", "task_end", "device_info_response", "error"])
async def test_a_frame_with_another_client_id_is_refused_and_not_acted_on(
    cluster: Cluster, guests: Guests, kind: str
) -> None:
    attacker, victim = await guests.device(cluster.a), await guests.device(cluster.a)

    error = await refused(attacker, self_made_task(victim.client_id, type=kind))

    assert error.startswith("client_id:")
    await nothing_ran(cluster.b, attacker, victim)


@pytest.mark.parametrize("target", ["itself", "a peer"])
async def test_a_device_that_calls_itself_a_constellation_in_a_task_is_refused(
    cluster: Cluster, guests: Guests, target: str
) -> None:
    attacker, victim = await guests.device(cluster.a), await guests.device(cluster.b)
    target_id = attacker.client_id if target == "itself" else victim.client_id

    error = await refused(
        attacker, self_made_task(attacker.client_id, client_type="constellation", target_id=target_id)
    )

    assert error.startswith("client_type:")
    await nothing_ran(cluster.c, attacker, victim)


async def test_a_constellation_that_calls_itself_a_device_in_a_task_is_refused(
    cluster: Cluster, guests: Guests
) -> None:
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)

    error = await refused(galaxy, self_made_task(galaxy.client_id))

    assert error.startswith("client_type:")
    await nothing_ran(cluster.c, device)


async def test_a_device_may_not_target_a_peer(cluster: Cluster, guests: Guests) -> None:
    attacker, victim = await guests.device(cluster.a), await guests.device(cluster.a)

    error = await refused(attacker, self_made_task(attacker.client_id, target_id=victim.client_id))

    assert error.startswith("target_id:")
    await nothing_ran(cluster.b, attacker, victim)


async def test_a_device_may_not_ask_about_devices(cluster: Cluster, guests: Guests) -> None:
    attacker, victim = await guests.device(cluster.a), await guests.device(cluster.b)

    await refused(attacker, {"type": "device_info_request", "target_id": victim.client_id, "request_id": "r1"})

    assert attacker.count("device_info_response") == 0


@pytest.mark.parametrize(
    "kind", ["task", "heartbeat", "command_results", "task_end", "device_info_request", "device_info_response"]
)
async def test_nothing_is_done_before_a_registration(cluster: Cluster, guests: Guests, kind: str) -> None:
    device = await guests.device(cluster.a)
    stranger = await guests.socket(cluster.a)

    await stranger.send(
        {"type": kind, "status": "ok", "client_type": "constellation", "client_id": "x", "target_id": device.client_id}
        | {"request": "attack", "metadata": {"commands": [ECHO]}}
    )
    answer = await stranger.expect("error", status="error")
    closed = await stranger.until_closed()

    assert "registration" in answer["error"]
    assert len(stranger.heard) == 1
    assert closed.code >= 4000
    await nothing_ran(cluster.b, device)


@pytest.mark.parametrize("node", [0, 1])
async def test_a_second_socket_with_an_id_in_use_is_refused_and_the_first_is_untouched(
    cluster: Cluster, guests: Guests, node: int
) -> None:
    device = await guests.device(cluster.a, answers=False)
    answer = await cluster.b.dispatch(device.client_id, ECHO)
    commands = await device.expect("command")
    before = cluster.redis.registration(device.client_id)

    second = await guests.socket(cluster.nodes[node], device.client_id)
    await second.send(device.registration())
    error = await second.expect("error", status="error")
    closed = await second.until_closed()

    assert "already registered" in error["error"]
    assert closed.code >= 4000
    assert cluster.redis.registration(device.client_id) == before
    await device.answer(commands)
    assert (await cluster.c.done(answer["task_name"]))["state"] == "completed"


async def test_an_id_in_use_cannot_be_taken_with_another_role(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    second = await guests.socket(cluster.b, device.client_id)

    message = device.registration().model_copy(update={"client_type": "constellation"})
    await second.send(message)

    assert "already registered" in (await second.expect("error"))["error"]
    assert cluster.redis.registration(device.client_id)["client_type"] == "device"
    await device.still_served()


async def test_a_registered_socket_cannot_register_again_as_somebody_else(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    other = unique("other")

    await refused(device, device.registration().model_copy(update={"client_id": other}))
    await refused(device, device.registration())

    assert other not in await cluster.b.online()
    assert cluster.redis.registration(device.client_id)["client_type"] == "device"


async def test_an_id_is_free_again_once_its_socket_is_gone(cluster: Cluster, guests: Guests) -> None:
    device = await guests.device(cluster.a)
    await device.close()

    again = await guests.device(cluster.b, device.client_id)

    assert await cluster.c.holder_of(device.client_id) == await cluster.b.node_id()
    await again.still_served()


async def test_a_hundred_sockets_that_ask_for_one_id_at_once_leave_one_owner(cluster: Cluster, guests: Guests) -> None:
    client_id = unique("wanted")
    sockets = [await guests.socket(cluster.nodes[i % 3], client_id) for i in range(99)]
    registration = UfoDevice(cluster.a.ws_url, client_id).registration()

    for socket in sockets:
        await socket.send(registration)
    answers = [await socket.first_answer() for socket in sockets]
    accepted = [s for s, answer in zip(sockets, answers, strict=True) if answer["type"] == "heartbeat"]

    assert len(accepted) == 1
    await accepted[0].still_served()
    answer = await cluster.b.dispatch(client_id, ECHO)
    await accepted[0].expect("task", session_id=answer["session_id"])
    await accepted[0].close()
    assert (await cluster.a.done(answer["task_name"]))["state"] == "cancelled"
