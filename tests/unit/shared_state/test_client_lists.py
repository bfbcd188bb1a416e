"""The list that every node keeps of its clients, and the listings made from these."""

import asyncio
from typing import Any

import pytest

from shared_state import State, clients
from shared_state.errors import AlreadyRegistered, StateUnavailable
from tests.support.backends import Backend
from tests.support.records import a_registration

A, B = "node-a", "node-b"


@pytest.fixture
async def state(backend: Backend) -> State:
    """Two live nodes."""
    return await backend.state_of_nodes(A, B)


async def test_clients_of_all_live_nodes_are_listed_in_order(state: State) -> None:
    await state.clients.register(a_registration("c", A))
    await state.clients.register(a_registration("a", B, platform="linux", profile={"x": 1}))
    await state.clients.register(a_registration("b", A))
    assert await state.clients.online_ids() == ["a", "b", "c"]
    listed = await state.clients.online()
    assert [(r.client_id, r.node_id) for r in listed] == [("a", B), ("b", A), ("c", A)]
    assert listed[0].profile == {"x": 1}


async def test_clients_of_dead_nodes_are_left_out(state: State) -> None:
    await state.clients.register(a_registration("device-1", "dead"))
    assert await state.clients.online_ids() == []
    assert await state.clients.online() == []
    assert await state.clients.get("device-1") is None


async def test_a_client_that_left_is_not_listed(state: State) -> None:
    given = a_registration("device-1", A)
    await state.clients.register(given)
    await state.clients.leave("device-1", given.connection_id)
    await state.clients.unlist_on_node(A, "device-1")
    assert await state.clients.online_ids() == []
    assert await state.clients.on_node(A) == {}


async def test_a_client_that_a_node_was_refused_is_not_on_its_list(state: State) -> None:
    """Otherwise it would be shown as online for as long as that node lives, also after it has left."""
    holder = a_registration("device-1", A)
    await state.clients.register(holder)
    with pytest.raises(AlreadyRegistered):
        await state.clients.register(a_registration("device-1", B))
    await state.clients.leave("device-1", holder.connection_id)
    await state.clients.unlist_on_node(A, "device-1")
    assert await state.clients.online_ids() == []


async def test_a_refusal_on_the_same_node_leaves_the_holder_on_the_list(state: State) -> None:
    await state.clients.register(a_registration("device-1", A))
    with pytest.raises(AlreadyRegistered):
        await state.clients.register(a_registration("device-1", A))
    assert await state.clients.online_ids() == ["device-1"]


async def test_a_client_is_listed_before_its_registration_is_stored(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that dies in between leaves a listed client: what is not on a list is never settled."""
    state = backend.state(lease_ttl_s=60.0)
    await state.nodes.renew(A, {})
    # Redis knows the scripts from here on: none has to be sent twice.
    await state.clients.register(a_registration("device-0", A))

    genuine = state.connection.script

    def died(name: str, *rest: Any) -> Any:
        if name == "client_register":
            raise StateUnavailable("the node died here")
        return genuine(name, *rest)

    monkeypatch.setattr(state.connection, "script", died)
    with pytest.raises(StateUnavailable):
        await state.clients.register(a_registration("device-1", A))
    assert list(await state.clients.on_node(A)) == ["device-0", "device-1"]


async def test_a_list_longer_than_one_command_is_written_whole(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "SEEN_CHUNK", 7)
    seen = {f"device-{i:03}": i for i in range(50)}
    await asyncio.gather(*(state.clients.register(a_registration(client_id, A)) for client_id in seen))
    await state.clients.note_seen(A, seen)
    assert await state.clients.on_node(A) == seen


async def test_signs_of_life_list_nobody_who_has_left(state: State) -> None:
    await state.clients.register(a_registration("device-1", A, since_ms=1))
    await state.clients.note_seen(A, {"device-1": 2, "device-2": 2})
    assert await state.clients.on_node(A) == {"device-1": 2}
    await state.clients.note_seen(B, {"device-1": 3})
    await state.clients.note_seen(A, {})
    assert await state.clients.on_node(B) == {}


async def test_as_many_signs_of_life_as_travel_together_are_noted(state: State) -> None:
    """A script can unpack only so much."""
    names = {f"device-{i}": i for i in range(clients.SEEN_CHUNK)}
    pairs = [x for pair in names.items() for x in pair]
    await state.connection.command("HSET", state.keys.node_clients(A), *pairs)
    later = {name: i + 1 for name, i in names.items()}
    await state.clients.note_seen(A, later)
    assert await state.clients.on_node(A) == later


async def test_a_node_whose_clients_are_silent_keeps_its_list(state: State) -> None:
    """They are held as long as they answer pings, also if they say nothing for a day."""
    await state.clients.register(a_registration("device-1", A))
    key = state.keys.node_clients(A)
    await state.connection.command("EXPIRE", key, 5)
    await state.clients.note_seen(A, {})
    assert await state.connection.command("TTL", key) > 5


async def test_a_listing_longer_than_one_batch_is_read_whole(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "CHUNK", 7)
    given = [a_registration(f"device-{i:03}", A, profile={"i": i}) for i in range(50)]
    await asyncio.gather(*(state.clients.register(r) for r in given))
    listed = await state.clients.online()
    assert [(r.client_id, r.profile) for r in listed] == [(r.client_id, r.profile) for r in given]


async def test_a_detailed_listing_comes_in_parts_and_holds_everybody_once(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "CHUNK", 7)
    monkeypatch.setattr(clients, "DETAILS_CHUNK", 3)
    given = [a_registration(f"device-{i:03}", A if i % 2 else B) for i in range(50)]
    await asyncio.gather(*(state.clients.register(r) for r in given))
    # Those who moved a moment ago are on the lists of both nodes.
    for moved in given:
        await state.connection.command("HSET", state.keys.node_clients(A), moved.client_id, 1)
    parts = [part async for part in state.clients.online_parts()]
    assert max(len(part) for part in parts) <= 3
    listed = [(r.client_id, r.node_id) for part in parts for r in part]
    assert listed == [(r.client_id, r.node_id) for r in given]
    assert await state.clients.online_ids() == [r.client_id for r in given]


async def test_a_list_entry_without_a_registration_is_not_shown_in_detail(state: State) -> None:
    await state.clients.register(a_registration("device-1", A))
    await state.connection.command("DEL", state.keys.registration("device-1"))
    assert await state.clients.online() == []


async def test_the_list_of_a_node_that_is_gone_can_be_dropped_twice(state: State) -> None:
    await state.clients.register(a_registration("device-1", A))
    await state.clients.drop_node_list(A)
    await state.clients.drop_node_list(A)
    assert await state.clients.on_node(A) == {}
