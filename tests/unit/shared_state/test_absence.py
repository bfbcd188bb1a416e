"""Clients that are away: kept for a while, ended once, and never by a connection that holds them no more."""

import pytest

from shared_state import State
from shared_state.errors import NotRegistered
from shared_state.sessions import SessionState
from tests.support.backends import Backend
from tests.support.records import a_registration, a_session, ref_of
from tests.support.wait import until

A, B = "node-a", "node-b"


@pytest.fixture
async def state(backend: Backend) -> State:
    """Two live nodes."""
    return await backend.state_of_nodes(A, B)


async def _with_session(state: State) -> tuple[str, str]:
    """`device-1` on node A with one session. Returns connection and session id."""
    registration = a_registration(node_id=A)
    await state.clients.register(registration)
    session = a_session()
    await state.sessions.create(session)
    await state.inbox.post("device-1", b"task", session=ref_of(session))
    return registration.connection_id, session.session_id


async def test_a_client_that_is_away_is_found_and_held_by_nobody(state: State) -> None:
    connection_id, _ = await _with_session(state)
    left = await state.clients.leave("device-1", connection_id, away_s=60)
    assert left.held
    found = await state.clients.find("device-1")
    assert found is not None
    assert (found.node_id, found.connection_id) == ("", "")
    assert found.away_until_ms is not None
    assert await state.clients.get("device-1") is not None
    posted = await state.inbox.post("device-1", b"more")
    assert (posted.node_id, posted.receivers) == ("", 0)
    assert len(await state.inbox.read("device-1")) == 2


async def test_a_farewell_is_answered_the_same_when_it_is_repeated(state: State) -> None:
    connection_id, session_id = await _with_session(state)
    first = await state.clients.leave("device-1", connection_id, away_s=60)
    found = await state.clients.find("device-1")
    assert await state.clients.leave("device-1", connection_id, away_s=60) == first
    assert first.sessions == [session_id]
    assert await state.clients.find("device-1") == found, "the absence is not lengthened"


async def test_a_farewell_for_good_is_answered_the_same_when_it_is_repeated(state: State) -> None:
    connection_id, session_id = await _with_session(state)
    for _ in range(2):
        left = await state.clients.leave("device-1", connection_id)
        assert (left.held, left.sessions) == (True, [session_id])
    assert await state.clients.find("device-1") is None
    with pytest.raises(NotRegistered):
        await state.inbox.post("device-1", b"more")


@pytest.mark.parametrize("away_s", [0.0, 60.0])
async def test_a_late_farewell_leaves_the_absence_of_a_newer_connection_alone(state: State, away_s: float) -> None:
    connection_id, _ = await _with_session(state)
    newer = a_registration(node_id=B)
    await state.clients.register(newer, replace=connection_id)
    await state.clients.leave("device-1", newer.connection_id, away_s=60)
    found = await state.clients.find("device-1")
    assert not (await state.clients.leave("device-1", connection_id, away_s=away_s)).held
    assert not (await state.clients.reap("device-1", A, away_s=away_s)).held
    assert await state.clients.find("device-1") == found


async def test_a_reaper_that_died_half_way_is_followed_by_one_that_hears_the_same(state: State) -> None:
    _, session_id = await _with_session(state)
    first = await state.clients.reap("device-1", A, away_s=60)
    assert (first.held, first.sessions) == (True, [session_id])
    assert await state.clients.reap("device-1", A, away_s=60) == first


async def test_an_absence_ends_when_its_time_is_over_and_not_before(state: State) -> None:
    connection_id, session_id = await _with_session(state)
    await state.clients.leave("device-1", connection_id, away_s=60)
    early = await state.clients.expire("device-1")
    assert (early.over, early.may_return, early.sessions) == (False, True, [])
    registration = a_registration(node_id=B)
    await state.clients.register(registration)
    held = await state.clients.expire("device-1")
    assert (held.over, held.may_return) == (False, False)
    await state.clients.leave("device-1", registration.connection_id, away_s=0.01)

    async def over() -> bool:
        return (await state.clients.expire("device-1")).over

    await until(over, "the absence is over")
    again = await state.clients.expire("device-1")
    assert (again.over, again.sessions) == (True, [session_id]), "whoever noticed may have died: the next one settles"
    assert await state.clients.find("device-1") is None


async def test_a_client_that_comes_back_is_told_what_it_had_under_way(state: State) -> None:
    connection_id, session_id = await _with_session(state)
    await state.clients.leave("device-1", connection_id, away_s=60)
    assert (await state.clients.register(a_registration(node_id=B))).sessions == [session_id]
    found = await state.sessions.find(session_id)
    assert found is not None
    assert found.state is SessionState.CREATED


async def test_a_message_may_wait_for_a_client_that_nobody_knows(state: State) -> None:
    session = a_session()
    posted = await state.inbox.post("device-1", b"task", session=ref_of(session), wait_s=7_200)
    assert posted.node_id == ""
    assert (await state.clients.register(a_registration())).sessions == [session.session_id]
    life_ms = await state.connection.command("PTTL", state.keys.inbox("device-1"))
    assert life_ms > 7_100_000, "an inbox lives as long as what waits in it"
