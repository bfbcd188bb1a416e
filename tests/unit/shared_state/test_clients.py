"""Registrations: who holds a client, and that nobody else can change it."""

import pytest

from shared_state import State
from shared_state.errors import AlreadyRegistered
from tests.support.backends import Backend
from tests.support.records import a_registration, a_session, ref_of
from tests.support.wait import until

A, B = "node-a", "node-b"


@pytest.fixture
async def state(backend: Backend) -> State:
    """Two live nodes."""
    return await backend.state_of_nodes(A, B)


async def test_a_registration_is_found_as_it_was_given(state: State) -> None:
    given = a_registration(
        platform="linux", target_id="device-2", features=frozenset({"b", "a"}), client_type="constellation"
    )
    await state.clients.register(given)
    assert await state.clients.find("device-1") == given


async def test_profile_and_last_sign_of_life_come_with_get(state: State) -> None:
    profile = {"platform": "linux", "system_info": {"cpu_count": 4, "hostname": None}}
    given = a_registration(since_ms=1_000, profile=profile)
    await state.clients.register(given)
    await state.clients.note_seen(A, {"device-1": 2_000})
    found = await state.clients.get("device-1")
    assert found is not None
    assert found.profile == profile
    assert found.last_seen_ms == 2_000
    assert found.since_ms == 1_000


async def test_nobody_is_found_under_an_unknown_id(state: State) -> None:
    assert await state.clients.find("nobody") is None
    assert await state.clients.get("nobody") is None
    assert await state.clients.online() == []
    assert await state.clients.online_ids() == []


async def test_registering_again_on_the_same_connection_is_safe(state: State) -> None:
    given = a_registration()
    await state.clients.register(given)
    await state.clients.register(given)
    assert await state.clients.find("device-1") == given


async def test_a_client_of_a_live_node_is_not_replaced(state: State) -> None:
    first = a_registration(node_id=A)
    await state.clients.register(first)
    with pytest.raises(AlreadyRegistered, match="'device-1' is already registered") as refused:
        await state.clients.register(a_registration(node_id=B))
    assert (refused.value.node_id, refused.value.connection_id) == (A, first.connection_id)
    assert await state.clients.find("device-1") == first


async def test_a_client_of_the_same_node_is_not_replaced(state: State) -> None:
    """Also when the node's own lease is not (yet) known to Redis."""
    first = a_registration(node_id="node-without-lease")
    await state.clients.register(first)
    with pytest.raises(AlreadyRegistered):
        await state.clients.register(a_registration(node_id="node-without-lease"))
    assert await state.clients.find("device-1") == first


async def test_a_client_of_a_dead_node_is_replaced(state: State) -> None:
    await state.clients.register(a_registration(node_id="dead", platform="linux", profile={"old": True}))
    newer = a_registration(node_id=B)
    await state.clients.register(newer)
    assert await state.clients.find("device-1") == newer
    found = await state.clients.get("device-1")
    assert found is not None
    assert found.profile is None, "nothing is left of the old registration"


async def test_a_client_is_replaced_once_the_lease_of_its_node_has_ended(backend: Backend) -> None:
    short, long = backend.state(lease_ttl_s=0.2), backend.state(lease_ttl_s=60.0)
    await short.nodes.renew(A, {})
    await long.nodes.renew(B, {})
    await short.clients.register(a_registration(node_id=A))
    newer = a_registration(node_id=B)

    async def replaced() -> bool:
        try:
            await long.clients.register(newer)
        except AlreadyRegistered:
            return False
        return True

    await until(replaced, "the dead node's registration gives way")
    assert await long.clients.find("device-1") == newer


async def test_a_late_farewell_of_an_old_connection_leaves_the_newer_one_alone(state: State) -> None:
    old = a_registration(node_id="dead")
    await state.clients.register(old)
    newer = a_registration(node_id=B)
    await state.clients.register(newer)
    assert not (await state.clients.leave("device-1", old.connection_id)).held
    assert await state.clients.find("device-1") == newer


async def test_a_late_touch_of_an_old_connection_changes_nothing(state: State) -> None:
    old = a_registration(node_id="dead")
    await state.clients.register(old)
    newer = a_registration(node_id=B, profile={"mine": 1})
    await state.clients.register(newer)
    assert await state.clients.touch("device-1", old.connection_id, profile={"evil": 1}) is False
    found = await state.clients.get("device-1")
    assert found is not None
    assert found.profile == {"mine": 1}


async def test_touching_lengthens_the_life_and_may_renew_the_profile(state: State) -> None:
    given = a_registration(profile={"v": 1})
    await state.clients.register(given)
    key = state.keys.registration("device-1")
    await state.connection.command("PEXPIRE", key, 5_000)
    assert await state.clients.touch(
        "device-1", given.connection_id, profile={"v": 2}, features=frozenset({"autonomous"})
    )
    assert await state.connection.command("PTTL", key) > 5_000
    found = await state.clients.get("device-1")
    assert found is not None
    assert found.profile == {"v": 2}
    assert found.features == {"autonomous"}


async def test_touching_what_is_gone_says_so_and_stores_nothing(state: State) -> None:
    assert await state.clients.touch("device-1", "c", profile={}) is False
    assert await state.clients.find("device-1") is None


async def test_a_farewell_tells_which_sessions_were_under_way(state: State) -> None:
    given = a_registration()
    await state.clients.register(given)
    sessions = [a_session(), a_session()]
    for session in sessions:
        await state.inbox.post("device-1", b"task", session=ref_of(session))
    under_way = await state.clients.leave("device-1", given.connection_id)
    assert under_way.held
    assert sorted(under_way.sessions) == sorted(s.session_id for s in sessions)
    assert await state.clients.find("device-1") is None


async def test_a_farewell_may_be_repeated(state: State) -> None:
    given = a_registration()
    await state.clients.register(given)
    for _ in range(2):
        left = await state.clients.leave("device-1", given.connection_id)
        assert (left.held, left.sessions) == (True, [])


async def test_reaping_voids_only_what_the_dead_node_still_holds(state: State) -> None:
    await state.clients.register(a_registration("device-1", "dead"))
    moved = a_registration("device-2", B)
    await state.clients.register(moved)
    session = a_session(client_id="device-2")
    await state.inbox.post("device-2", b"task", session=ref_of(session))
    assert (await state.clients.reap("device-1", "dead")).held
    still = await state.clients.reap("device-2", "dead")
    assert (still.held, still.sessions) == (False, [session.session_id])
    assert await state.clients.find("device-1") is None
    assert await state.clients.find("device-2") == moved
