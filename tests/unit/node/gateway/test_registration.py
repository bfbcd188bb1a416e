"""Sockets: registered first, in time, under one identity, by one connection at a time."""

import asyncio
from typing import Any

import orjson
import pytest

from aip_cluster.protocol.ids import now_ms
from node.app import Node
from shared_state.errors import StateUnavailable
from tests.support.asgi import Device, Socket, SocketClosed
from tests.support.records import a_registration
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode


async def _refused(socket: Socket, **fields: Any) -> tuple[str, int]:
    """The error that answers `fields`, and the code of the close behind it."""
    answer = await socket.ask(**fields)
    assert (answer.type, answer.status) == ("error", "error")
    with pytest.raises(SocketClosed) as closed:
        await socket.receive()
    return str(answer.error), closed.value.code


async def test_a_registration_is_answered_with_a_heartbeat(node: Node) -> None:
    async with Socket(node) as socket:
        answer = await socket.ask(type="register", client_id="device-1")
        assert (answer.type, answer.status, answer.error) == ("heartbeat", "ok", None)
        assert answer.response_id
    await until(lambda: len(node.gateway.hub) == 0, "the socket is let go")
    assert await node.state.clients.online_ids() == []


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"type": "heartbeat", "client_id": "d"}, "type: The first message must be a registration"),
        ({"type": "task", "client_id": "d", "request": "x"}, "type: The first message must be a registration"),
        ({"type": "register"}, "client_id: Client ID is required"),
        ({"type": "register", "client_id": ""}, "client_id: Client ID is required"),
        ({"type": "register", "client_id": "a{b}"}, "client_id: must be"),
        ({"type": "register", "client_id": "d", "target_id": "a\nb"}, "target_id: must be"),
        ({"type": "register", "client_id": "d", "metadata": []}, "metadata: "),
        ({"type": "nothing"}, "type: "),
        (
            {"type": "register", "client_id": "b@x", "client_type": "constellation", "target_id": "x"},
            "Target device 'x' is not connected",
        ),
        ({"type": "result", "request_id": "r", "payload": {"status": []}}, "payload.status: "),
    ],
    ids=str,
)
async def test_a_bad_first_message_is_refused(node: Node, fields: dict[str, Any], error: str) -> None:
    async with Socket(node) as socket:
        told, code = await _refused(socket, **fields)
    assert told.startswith(error)
    assert code == 4002
    assert len(node.gateway.hub) == 0


@pytest.mark.parametrize("frame", ["", "{", "[]", b"\xff", b"\x00" * 100, "\ud7ff", "[" * 5_000])
async def test_a_first_frame_that_is_no_message_is_refused(node: Node, frame: str | bytes) -> None:
    async with Socket(node) as socket:
        socket.send_raw(frame)
        assert (await socket.receive()).type == "error"
        with pytest.raises(SocketClosed, match="4002"):
            await socket.receive()


async def test_a_socket_that_does_not_register_in_time_is_closed(make_node: MakeNode) -> None:
    node = await make_node(register_timeout_s=0.05)
    async with Socket(node) as socket:
        assert (await socket.receive()).error == "No registration within 0.05 s"
        with pytest.raises(SocketClosed, match="4001"):
            await socket.receive()


async def test_a_client_id_that_is_held_is_refused_on_every_node(make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    async with Device(here, "device-1"):
        for node in (here, there):
            async with Socket(node) as socket:
                told, code = await _refused(socket, type="register", client_id="device-1")
            assert (told.partition(" by ")[0], code) == ("Client ID 'device-1' is already registered", 4009)
        assert (await here.state.clients.online_ids()) == ["device-1"]
    assert await there.state.clients.online_ids() == []
    assert await there.state.clients.on_node(there.node_id) == {}


async def test_a_client_may_come_back_at_once_on_another_node(make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    for node in (here, there, here):
        async with Device(node, "device-1"):
            found = await node.state.clients.get("device-1")
            assert found is not None
            assert found.node_id == node.node_id


async def test_a_registration_left_by_a_dead_node_gives_way(node: Node) -> None:
    await node.state.clients.register(a_registration("device-1", "dead"))
    async with Device(node, "device-1"):
        found = await node.state.clients.get("device-1")
        assert found is not None
        assert found.node_id == node.node_id


async def test_when_redis_is_away_a_client_is_told_to_try_later(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> None:
        raise StateUnavailable("Redis cannot be reached")

    async with Socket(node) as socket:
        with monkeypatch.context() as broken:
            broken.setattr(node.state.clients, "register", away)
            told, code = await _refused(socket, type="register", client_id="device-1")
    assert told == "The cluster cannot register you now: Redis cannot be reached"
    assert code == 1013
    assert len(node.gateway.hub) == 0


CLAIMS: list[dict[str, Any]] = [
    {"type": "heartbeat", "client_id": "device-2"},
    {"type": "task", "client_id": "device-2", "request": "x"},
    {"type": "task", "client_type": "constellation", "request": "x"},
    {"type": "command_results", "client_type": "constellation"},
]


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
async def test_a_claim_to_be_another_is_refused_and_not_acted_on(node: Node, claim: dict[str, Any]) -> None:
    async with Device(node, "device-1") as device:
        answer = await device.ask(**claim, session_id="s1")
        assert (answer.type, answer.session_id) == ("error", "s1")
        assert str(answer.error).startswith(("client_id: ", "client_type: "))
        assert (await device.ask(type="heartbeat")).type == "heartbeat", "the socket lives on"
    assert await node.state.sessions.page(client_id=None, limit=10) == []


@pytest.mark.parametrize("kind", ["heartbeat", "error"])
async def test_a_default_that_ufo_serialises_is_no_claim(node: Node, kind: str) -> None:
    async with Device(node, "device-1"), Socket(node) as boss:
        registered = await boss.ask(
            type="register", client_id="b@device-1", client_type="constellation", target_id="device-1"
        )
        assert registered.status == "ok"
        boss.send(type=kind, client_type="device", client_id="b@device-1", session_id=None)
        assert (await boss.ask(type="heartbeat", client_type="device")).type == "heartbeat"


async def test_registering_twice_on_one_socket_is_an_error(node: Node) -> None:
    async with Device(node, "device-1") as device:
        answer = await device.ask(type="register", client_id="device-1")
        assert answer.error == "type: this socket is registered already"


@pytest.mark.parametrize(
    "frame", ["{", "[]", '{"type":"result","request_id":"r","payload":{"status":[]}}', '{"type":{}}', "[" * 3_000]
)
async def test_a_frame_that_is_no_message_is_answered_and_the_socket_lives_on(node: Node, frame: str) -> None:
    async with Device(node) as device:
        device.send_raw(frame)
        assert (await device.receive()).type == "error"
        assert (await device.ask(type="heartbeat")).type == "heartbeat"


async def test_a_pushed_profile_replaces_the_old_one(node: Node) -> None:
    async with Device(node, "device-1") as device:
        device.send(type="device_info_response", metadata={"platform": "linux", "battery": 7})
        assert (await device.ask(type="heartbeat")).type == "heartbeat"
        found = await node.state.clients.get("device-1")
        assert found is not None
        assert found.profile == {"platform": "linux", "battery": 7}


async def test_an_empty_feature_word_survives_the_store_as_nothing(node: Node) -> None:
    async with Device(node, "device-1", features=("",)):
        found = await node.state.clients.find("device-1")
        held = node.gateway.hub.get("device-1")
        assert found is not None
        assert held is not None
        assert found.features == held.features


async def test_signs_of_life_list_nobody_who_has_left_meanwhile(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is written in parts; a client that leaves in between must not be written back."""
    monkeypatch.setattr("shared_state.clients.SEEN_CHUNK", 1)
    devices = [Device(node, f"d{i:02}") for i in range(20)]
    for device in devices:
        await device.__aenter__()
    noting = asyncio.create_task(node.gateway.upkeep.note_signs_of_life())
    await asyncio.sleep(0)
    await devices[-1].close()
    await noting
    assert await node.state.clients.online_ids() == [f"d{i:02}" for i in range(19)]
    for device in devices:
        await device.close()


async def test_signs_of_life_are_noted_of_those_who_gave_one(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[dict[str, int]] = []
    note_seen = node.state.clients.note_seen

    async def noting(node_id: str, last_seen_ms: dict[str, int]) -> None:
        await note_seen(node_id, last_seen_ms)
        noted.append(last_seen_ms)

    monkeypatch.setattr(node.state.clients, "note_seen", noting)
    async with Device(node, "talks") as talks, Device(node, "listens"):
        # Who was heard in the very millisecond of a note is noted once more with the next.
        await asyncio.sleep(0.01)
        await node.gateway.upkeep.note_signs_of_life()
        await asyncio.sleep(0.01)
        await talks.ask(type="heartbeat")
        await node.gateway.upkeep.note_signs_of_life()
        await node.gateway.upkeep.claim_again()  # which lists everybody as of the registration
        await node.gateway.upkeep.note_signs_of_life()
        assert [set(part) for part in noted] == [{"talks", "listens"}, {"talks"}, {"talks", "listens"}]
        held = node.gateway.hub.get("talks")
        assert held is not None
        assert (await node.state.clients.on_node(node.node_id))["talks"] == held.last_seen_ms


async def test_signs_of_life_are_noted_after_the_clock_was_set_back(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Device(node, "device-1") as device:
        with monkeypatch.context() as patched:
            patched.setattr("node.gateway.registration_upkeep.now_ms", lambda: now_ms() + 3_600_000)
            await node.gateway.upkeep.note_signs_of_life()
        await asyncio.sleep(0.01)
        await device.ask(type="heartbeat")
        await node.gateway.upkeep.note_signs_of_life()
        held = node.gateway.hub.get("device-1")
        assert held is not None
        assert await node.state.clients.on_node(node.node_id) == {"device-1": held.last_seen_ms}


async def test_signs_of_life_that_could_not_be_stored_are_stored_later(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(node_id: str, last_seen_ms: dict[str, int]) -> None:
        raise StateUnavailable("Redis is away")

    async with Device(node, "device-1") as device:
        await node.gateway.upkeep.note_signs_of_life()
        await asyncio.sleep(0.01)
        await device.ask(type="heartbeat")
        with monkeypatch.context() as patched:
            patched.setattr(node.state.clients, "note_seen", away)
            with pytest.raises(StateUnavailable):
                await node.gateway.upkeep.note_signs_of_life()
        await asyncio.sleep(0.01)
        await node.gateway.upkeep.note_signs_of_life()
        held = node.gateway.hub.get("device-1")
        assert held is not None
        assert await node.state.clients.on_node(node.node_id) == {"device-1": held.last_seen_ms}


async def test_a_hostile_profile_registers_like_any_other(node: Node) -> None:
    hostile: dict[str, Any] = {
        "platform": ["linux"],
        "system_info": {"supported_features": {"a": 1}, "platform": 5, "deep": [[[[None]]]]},
        "aip_format": {"x": 1},
    }
    async with Socket(node) as socket:
        assert (await socket.ask(type="register", client_id="d", metadata=hostile)).status == "ok"
        found = await node.state.clients.get("d")
        assert found is not None
        assert found.profile == orjson.loads(orjson.dumps(hostile))
        assert (found.platform, found.features) == ("", frozenset())
