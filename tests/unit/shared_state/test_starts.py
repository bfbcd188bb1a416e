"""The start of a session: stored and posted, or neither; and only for the client that it was meant for."""

import asyncio
from typing import Any

import pytest

from shared_state import State
from shared_state.clients import Registration
from shared_state.errors import NameHeld, NotRegistered, TooManySessions
from shared_state.keys import new_session_id
from shared_state.session_create import ExpectedVersion
from shared_state.session_record import order_json
from shared_state.sessions import Behind, Ended, Session, SessionState
from tests.support.backends import Backend
from tests.support.records import a_registration, a_session, active_sessions, end_session, ref_of


@pytest.fixture
def registration() -> Registration:
    """A device that can do something."""
    return a_registration(features=frozenset({"autonomous", "cli"}))


@pytest.fixture
async def state(backend: Backend, registration: Registration) -> State:
    """`device-1` is registered on `node-a`."""
    state = backend.state(lease_ttl_s=60.0, max_sessions_per_device=3)
    await state.clients.register(registration)
    return state


def _new(**fields: Any) -> Session:
    return a_session(new_session_id("device-1"), **fields)


def _believed(found: Registration) -> ExpectedVersion:
    return ExpectedVersion(found.held, found.node_id)


def _said(state: State) -> list[str]:
    """What nodes are told from now on."""
    said: list[str] = []
    state.connection.on_said = lambda kind, _: said.append(kind)
    return said


async def _counts(state: State) -> tuple[int, int]:
    """Sessions of the device that wait, and that are active."""
    return len(await state.session_creator.waiting("device-1", but=())), await active_sessions(state, "device-1")


async def test_a_session_is_stored_and_its_task_waits(state: State) -> None:
    session, said = _new(metadata={"a": 1}, commands=b"[]", owner="boss"), _said(state)
    assert await state.session_creator.start(session)
    assert said == ["inbox"], "its node was woken"
    assert await state.sessions.find(session.session_id) == session
    assert await state.session_creator.waiting("device-1", but=()) == [order_json(session)]
    assert await state.session_creator.waiting("device-1", but={session.session_id}) == []
    assert await state.inbox.read("device-1") == [], "it is its own message"
    assert await _counts(state) == (1, 1)
    for client_id in (None, "device-1"):
        listed = await state.sessions.page(client_id=client_id, limit=5)
        assert [found.session_id for _, found in listed if found] == [session.session_id]


async def test_repeated_it_begins_nothing_twice(state: State) -> None:
    session, said = _new(), _said(state)
    assert all(await asyncio.gather(*(state.session_creator.start(session) for _ in range(20))))
    # In a Cluster the caller says it, who cannot know whether it was said before.
    assert len(said) == (1 if state.connection.one_server else 20)
    assert await _counts(state) == (1, 1)
    await end_session(state, session.session_id, client_id="device-1")
    await state.session_creator.start(session)
    found = await state.sessions.find(session.session_id)
    assert found is not None
    assert found.state is SessionState.COMPLETED
    assert await _counts(state) == (0, 0)


async def test_repeated_late_it_brings_back_nothing_that_went_with_the_end(state: State) -> None:
    session = _new(commands=b"[1]", owner="boss", queue_until_ms=5, max_attempts=3)
    await state.session_creator.start(session, wait_s=1.0)
    await end_session(state, session.session_id, client_id="device-1")
    ended = await state.sessions.find(session.session_id)
    await state.session_creator.start(session, wait_s=1.0)
    assert await state.sessions.find(session.session_id) == ended
    assert ended is not None
    assert (ended.commands, ended.owner) == (b"", "boss")


async def test_what_is_kept_for_active_sessions_lives_on_without_any_and_has_a_life(state: State) -> None:
    """It is not made and dropped with every task, counts nowhere, and goes in the end."""
    key = state.keys.active("device-1")
    for _ in range(4):
        session = _new()
        await state.session_creator.start(session)
        await end_session(state, session.session_id, client_id="device-1")
        assert await active_sessions(state, "device-1") == 0
        assert await state.connection.command("PTTL", key) > session.span_s * 1000
    for _ in range(3):
        await state.session_creator.start(_new())
    with pytest.raises(TooManySessions):
        await state.session_creator.start(_new())
    left = await state.clients.leave("device-1", "")
    assert len(left.sessions) == 3, "as many as are under way"
    other = a_session(client_id="device-1")
    with pytest.raises(TooManySessions):
        await state.inbox.post("device-1", b"x", session=ref_of(other))


async def test_for_nobody_nothing_is_left(state: State) -> None:
    session = a_session(new_session_id("nobody"), client_id="nobody")
    with pytest.raises(NotRegistered):
        await state.session_creator.start(session)
    assert await state.sessions.find(session.session_id) is None
    said = _said(state)
    assert await state.session_creator.start(session, wait_s=60.0)
    assert said == [], "there is no node to be woken"


async def test_over_the_limit_nothing_is_left(state: State) -> None:
    for _ in range(3):
        await state.session_creator.start(_new())
    before, session = await _counts(state), _new()
    with pytest.raises(TooManySessions):
        await state.session_creator.start(session)
    assert await _counts(state) == before
    assert await state.sessions.find(session.session_id) is None


async def test_what_is_believed_of_a_client_is_checked(state: State, registration: Registration) -> None:
    found = await state.clients.find("device-1")
    assert found is not None
    assert await state.session_creator.start(_new(), believed=_believed(found))
    await state.clients.touch("device-1", registration.connection_id, features=frozenset({"cli"}))
    assert not await state.session_creator.start(_new(), believed=_believed(found)), "it can do something else"
    changed = await state.clients.find("device-1")
    assert changed is not None
    await state.clients.touch("device-1", registration.connection_id, profile={}, features=frozenset({"cli"}))
    assert await state.session_creator.start(_new(), believed=_believed(changed)), "what it can do is the same"
    now = await state.clients.find("device-1")
    assert now is not None
    await state.clients.leave("device-1", registration.connection_id)
    await state.clients.register(a_registration(features=frozenset({"cli"})))
    assert not await state.session_creator.start(_new(), believed=_believed(now)), "it is another registration"
    assert await _counts(state) == (2, 2)


async def test_what_is_behind_goes_with_the_end(state: State) -> None:
    """One call: the session is settled, and its events are in order."""
    session = _new()
    await state.session_creator.start(session)
    assert [e.facts["event"] for e in await state.sessions.events(session.session_id)] == ["created"]
    behind = Behind(
        stamps={"dispatched_ms": session.created_ms},
        events=[(session.created_ms, b'{"event":"dispatched"}')],
    )
    ended = await end_session(state, session.session_id, client_id="device-1", behind=behind)
    assert isinstance(ended, Ended)
    assert ended.settled
    assert await _counts(state) == (0, 0)
    found = await state.sessions.find(session.session_id)
    assert found is not None
    assert found.dispatched_ms is not None
    told = await state.sessions.events(session.session_id)
    assert [e.facts["event"] for e in told] == ["created", "dispatched", "ended"]
    assert [e.number for e in told] == [0, 1, 2]


async def test_an_end_that_came_too_late_settles_all_the_same(state: State) -> None:
    session = _new()
    await state.session_creator.start(session)
    await end_session(state, session.session_id, SessionState.CANCELLED)
    assert await _counts(state) == (0, 1), "ended by somebody who did not know the device: nobody is to begin it"
    late = await end_session(state, session.session_id, client_id="device-1")
    assert late is SessionState.CANCELLED
    assert await _counts(state) == (0, 0)


async def test_what_waits_is_read_in_order_as_long_as_nobody_has_begun_it(state: State) -> None:
    sessions = [_new(commands=b'[{"tool_name":"t"}]' if n == 1 else b"") for n in range(3)]
    for session in reversed(sessions):
        await state.session_creator.start(session)
    chosen = a_session("chosen-by-a-client")
    await state.sessions.create(chosen)
    await state.clients.leave("device-1", "")
    assert await state.session_creator.waiting("device-1", but=()) == [order_json(s) for s in sessions]
    begun, lost, requeued = sessions
    await state.sessions.advance(begun.session_id, SessionState.DISPATCHED)
    await state.sessions.discard(lost)
    assert await state.session_creator.waiting("device-1", but=()) == [order_json(requeued)]
    assert await state.session_creator.waiting("nobody", but=()) == []


async def test_one_that_its_device_did_not_take_waits_again(state: State) -> None:
    session = _new(max_attempts=2)
    await state.session_creator.start(session)
    await state.sessions.advance(session.session_id, SessionState.DISPATCHED)
    assert await _counts(state) == (0, 1)
    assert await state.sessions.requeue(session.session_id, 1) == 2
    assert await _counts(state) == (1, 1)


async def test_what_is_noted_late_does_not_undo_what_was_noted_at_once(state: State) -> None:
    session = _new()
    await state.session_creator.start(session)
    await state.sessions.advance(session.session_id, SessionState.RUNNING)
    now = await state.sessions.advance(
        session.session_id, SessionState.DISPATCHED, behind=Behind(stamps={"dispatched_ms": session.created_ms})
    )
    assert now is SessionState.RUNNING


async def test_of_many_events_the_oldest_go_and_numbers_stay(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared_state.sessions.EVENTS_BOUND", 5)
    session = _new()
    await state.session_creator.start(session)
    for n in range(9):
        await state.sessions.advance(session.session_id, None, event={"event": "x", "n": n})
    events = await state.sessions.events(session.session_id)
    assert [e.number for e in events] == [5, 6, 7, 8, 9]
    assert [e.facts["n"] for e in await state.sessions.events(session.session_id, after=events[2].event_id)] == [7, 8]
    assert [e.number for e in await state.sessions.events(session.session_id, after="1-2")] == [5, 6, 7, 8, 9]
    assert await state.sessions.events(session.session_id, after=events[-1].event_id) == []


async def test_a_client_that_is_away_is_held_by_nobody(state: State, registration: Registration) -> None:
    found = await state.clients.find("device-1")
    assert found is not None
    await state.clients.leave("device-1", registration.connection_id, away_s=60)
    assert not await state.session_creator.start(_new(), believed=_believed(found)), "its node would be woken in vain"
    away = await state.clients.find("device-1")
    assert away is not None
    assert (away.held, away.node_id) == ("", "")
    assert await state.session_creator.start(_new())
    assert await _counts(state) == (1, 1)


@pytest.mark.parametrize("posted", [True, False])
async def test_a_session_that_was_never_started_after_all_is_listed_no_more(state: State, *, posted: bool) -> None:
    session = a_session("boss:1") if posted else _new()
    if posted:
        await state.sessions.create(session)
        await state.inbox.post("device-1", b"task\n", session=ref_of(session))
    else:
        assert await state.session_creator.start(session)
    for _ in range(2):
        await state.inbox.unpost("device-1", ref_of(session))
    assert await state.sessions.page(client_id="device-1", limit=5) == []
    assert await active_sessions(state, "device-1") == 0


async def test_a_clients_sessions_are_listed_in_order_whoever_chose_their_ids(state: State) -> None:
    sessions = []
    for number in range(6):
        await asyncio.sleep(0.002)
        session = _new() if number % 2 else a_session(f"boss:{number} of many")
        if number % 2:
            assert await state.session_creator.start(session)
        else:
            await state.sessions.create(session)
            await state.inbox.post("device-1", b"task\n", session=ref_of(session))
        await end_session(state, session.session_id)
        await state.inbox.settle("device-1", session.session_id)
        sessions.append(session.session_id)
    listed = await state.sessions.page(client_id="device-1", limit=10)
    assert [found.session_id for _, found in listed if found] == sessions[::-1]
    behind = await state.sessions.page(client_id="device-1", limit=10, before=listed[2][0])
    assert behind == listed[3:]


async def test_a_name_is_claimed_with_the_start_where_one_server_holds_all(state: State) -> None:
    if not state.session_creator.may_claim:
        pytest.skip("in a Cluster the name is in another slot")
    session = _new(task_name="job")
    assert await state.session_creator.start(session, claims=True)
    assert await state.session_creator.start(session, claims=True), "repeated, it is the same claim"
    found = await state.sessions.find_by_task("job")
    assert found is not None
    assert found.session_id == session.session_id
    assert await state.connection.command("PTTL", state.keys.task("job")) > 0
    before, second = await _counts(state), _new(task_name="job")
    with pytest.raises(NameHeld):
        await state.session_creator.start(second, claims=True)
    assert await state.sessions.find(second.session_id) is None
    assert await _counts(state) == before
    # Claimed apart, once the first has ended, it is nobody else's.
    await end_session(state, session.session_id, client_id="device-1")
    await state.sessions.claim_task("job", second.session_id, token="t2", span_s=60)
    assert await state.session_creator.start(second)


async def test_a_start_that_is_refused_claims_nothing(state: State) -> None:
    if not state.session_creator.may_claim:
        pytest.skip("in a Cluster the name is in another slot")
    for _ in range(3):
        await state.session_creator.start(_new())
    with pytest.raises(TooManySessions):
        await state.session_creator.start(_new(task_name="job"), claims=True)
    assert await state.connection.command("EXISTS", state.keys.task("job")) == 0
