"""Two sockets and one client id: which one holds it, on one node and on two, and what becomes of the other."""

import asyncio
from typing import Any

import pytest

from node.app import Node
from node.connections.keepalive import Keepalive
from shared_state.clients import Admitted
from shared_state.sessions import SessionState
from tests.support.asgi import Device, Socket, SocketClosed, rest
from tests.support.features import RESUMING
from tests.support.records import a_registration
from tests.support.tasks import OK, dispatch, state_is
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode

REGISTER = {"type": "register", "client_id": "device-1"}


async def _closed(socket: Socket) -> int:
    """The code that the node closes the socket with."""
    try:
        while True:
            await socket.receive()
    except SocketClosed as closed:
        return closed.code


async def _refused(node: Node, **fields: Any) -> int:
    async with Socket(node) as socket:
        answer = await socket.ask(**(REGISTER | fields))
        assert (answer.error or "").startswith(
            "Client ID 'device-1' is already registered by a connection that is alive"
        )
        return await _closed(socket)


@pytest.fixture(params=["one node", "two nodes"])
async def nodes(request: pytest.FixtureRequest, make_node: MakeNode) -> tuple[Node, Node]:
    """The node of the older socket, and that of the newer one."""
    first = await make_node()
    return first, first if request.param == "one node" else await make_node()


async def _agreed(nodes: tuple[Node, ...], device: Device) -> None:
    """Registry and sockets name one holder, and that it is this one."""
    held = [c for n in set(nodes) if (c := n.gateway.hub.get(device.client_id)) is not None]
    assert len(held) == 1
    found = await nodes[0].state.clients.find(device.client_id)
    assert found is not None
    assert found.connection_id == held[0].connection_id
    assert (await device.ask(type="heartbeat")).type == "heartbeat"


async def test_a_live_holder_keeps_the_id(nodes: tuple[Node, Node]) -> None:
    old, new = nodes
    async with Device(old) as holder:
        assert await _refused(new) == 4009
        await _agreed(nodes, holder)


async def test_with_the_token_the_newcomer_takes_over_at_once_and_the_old_socket_is_told(
    nodes: tuple[Node, Node],
) -> None:
    old, new = nodes
    async with Device(old, features=RESUMING) as loser:
        sid = await dispatch(old)
        command, _ = await loser.next_commands()
        async with Device(new, features=RESUMING, token=loser.token) as winner:
            again, _ = await winner.next_commands()
            assert again.response_id == command.response_id
            assert await _closed(loser) == 4102
            await loser.close()
            await _agreed(nodes, winner)
            winner.answer(again, OK, OK)
            await state_is(old, sid, SessionState.COMPLETED)
            assert winner.token != loser.token


async def test_a_wrong_token_is_no_token(nodes: tuple[Node, Node]) -> None:
    old, new = nodes
    async with Device(old, features=RESUMING) as holder:
        assert holder.token
        for guess in ("guess", holder.token[:-1], "", 7, None, [holder.token]):
            assert await _refused(new, metadata={"resume_token": guess}) == 4009
        await _agreed(nodes, holder)


async def test_a_holder_that_is_silent_gives_way(nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = nodes

    async def silent(_self: Keepalive, _timeout_s: float) -> bool:
        return False

    monkeypatch.setattr(Keepalive, "beats", silent)
    async with Device(old) as loser, Device(new) as winner:
        assert await _closed(loser) == 4102
        await loser.close()
        await _agreed(nodes, winner)


async def test_a_holder_that_says_anything_meanwhile_is_not_silent(
    nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = nodes
    async with Device(old) as holder:

        async def speaks(_self: Keepalive, _timeout_s: float) -> bool:
            assert (await holder.ask(type="heartbeat")).type == "heartbeat"
            connection = old.gateway.hub.get("device-1")
            assert connection is not None
            connection.last_seen_ms += 1
            return False

        monkeypatch.setattr(Keepalive, "beats", speaks)
        assert await _refused(new) == 4009


async def test_a_late_farewell_of_the_loser_touches_nothing(nodes: tuple[Node, Node]) -> None:
    old, new = nodes
    loser = await Device(old, features=RESUMING).__aenter__()
    async with Device(new, features=RESUMING, token=loser.token) as winner:
        await loser.cut()
        await _agreed(nodes, winner)
        found = await old.state.clients.find("device-1")
        assert found is not None
        assert found.away_until_ms is None


def _held_behind_redis(node: Node, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """The node's registrations stop between the answer of Redis and their place in the hub: stored; they may go on."""
    stored, go_on = asyncio.Event(), asyncio.Event()
    genuine = node.state.clients.register

    async def register(*args: Any, **kwargs: Any) -> Admitted:
        admitted = await genuine(*args, **kwargs)
        stored.set()
        await go_on.wait()
        return admitted

    monkeypatch.setattr(node.state.clients, "register", register)
    return stored, go_on


async def test_an_eviction_that_overtakes_the_registration_it_ends_is_not_lost(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node was frozen between the answer of Redis and the place in its hub: two sockets would hold one client."""
    slow, fast = await make_node(), await make_node()
    stored, go_on = _held_behind_redis(slow, monkeypatch)
    loser = Socket(slow)
    await loser.__aenter__()
    loser.send(**REGISTER)
    await stored.wait()
    found = await fast.state.clients.find("device-1")
    assert found is not None
    admitted = await fast.state.clients.register(a_registration("device-1", fast.node_id), replace=found.connection_id)
    assert admitted.replaced_connection == found.connection_id
    await fast.bus.tell(slow.node_id, "evict", "device-1", found.connection_id)
    await until(
        lambda: slow.metrics.registry.get_sample_value("aip_bus_frames_total", {"kind": "evict"}), "the word has come"
    )
    await asyncio.sleep(0)
    go_on.set()
    assert await _closed(loser) == 4102
    await loser.close()
    assert slow.gateway.hub.get("device-1") is None


async def test_a_registration_under_way_answers_for_itself_when_it_is_asked_after(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = await make_node(), await make_node()
    stored, go_on = _held_behind_redis(slow, monkeypatch)
    holder = Device(slow)
    entering = asyncio.create_task(holder.__aenter__())
    await stored.wait()
    asked = asyncio.create_task(_refused(fast))
    await until(
        lambda: slow.metrics.registry.get_sample_value("aip_bus_frames_total", {"kind": "probe"}), "it is asked after"
    )
    go_on.set()
    await entering
    assert await asked == 4009
    await _agreed((slow, fast), holder)
    await holder.close()


async def test_a_thousand_registrations_with_the_token_end_with_one_holder(make_node: MakeNode) -> None:
    nodes = (await make_node(), await make_node())
    first = await Device(nodes[0], features=RESUMING).__aenter__()
    racers = [Device(nodes[i % 2], features=RESUMING, token=first.token) for i in range(1_000)]
    gate = asyncio.Semaphore(100)

    async def race(device: Device) -> bool:
        async with gate:
            await Socket.__aenter__(device)
            answer = await device.ask(type="register", client_id="device-1", metadata=device.metadata)
            return answer.status == "ok"

    let_in = await asyncio.gather(*(race(d) for d in racers))
    assert any(let_in)

    async def one_is_left() -> bool:
        return sum(n.gateway.hub.get("device-1") is not None for n in nodes) == 1

    await until(one_is_left, "one socket is left")
    winner = next(n.gateway.hub.get("device-1") for n in nodes if n.gateway.hub.get("device-1") is not None)
    found = await nodes[0].state.clients.find("device-1")
    assert found is not None
    assert winner is not None
    assert found.connection_id == winner.connection_id
    await asyncio.gather(*(d.close() for d in (first, *racers)))
    assert sum(len(n.gateway.hub._locks) for n in nodes) == 0


# -- secrets -------------------------------------------------------------------------------------------------------
async def test_a_resume_token_is_seen_by_nobody_but_its_client(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    device = await Device(node, features=RESUMING).__aenter__()
    assert device.token
    await device.cut()
    async with Device(node, features=RESUMING, token=device.token) as back, rest(node) as api:
        assert back.token
        back.send(type="device_info_response", metadata={"platform": "linux", "resume_token": back.token})
        assert (await back.ask(type="heartbeat")).type == "heartbeat"
        await asyncio.sleep(0.2)  # events are written behind
        paths = ("/api/clients?detail=1", "/api/aip_cluster/device-1", "/api/nodes", "/metrics")
        seen = [(await api.get(path)).text for path in paths]
        seen += [repr(await node.state.events.tail()), caplog.text]
        stored = await node.state.connection.command("HGETALL", node.state.keys.registration("device-1"))
        seen.append(repr(stored))
        for token in (device.token, back.token):
            assert not [text for text in seen if token in text]


async def test_a_holder_whose_node_is_deaf_keeps_the_id_as_long_as_that_node_renews_its_lease(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the shared key would be enough in every moment in which a node subscribes anew."""
    old, new = await make_node(lease_renew_s=0.2), await make_node(lease_renew_s=0.2)

    async def unheard(*_: Any) -> int:
        return 0

    async with Device(old) as holder:
        monkeypatch.setattr(new.bus, "tell", unheard)
        assert await _refused(new) == 4009
        await _agreed((old, new), holder)


async def test_a_holder_whose_node_died_a_moment_ago_gives_way(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease has not run out, and is renewed no more."""
    new = await make_node(lease_renew_s=0.2)
    await new.state.connection.command("ZADD", new.state.keys.leases(), 2**52, "dead")
    await new.state.clients.register(a_registration(node_id="dead"))
    async with Device(new) as winner:
        assert (await winner.ask(type="heartbeat")).type == "heartbeat"
