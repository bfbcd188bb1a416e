"""Steps of a session: fenced by generation, journaled in full, tried again only where nobody took the task."""

import pytest

from aip_cluster.protocol.ids import now_ms
from shared_state import State
from shared_state.errors import Fenced, SessionNotFound
from shared_state.sessions import Ended, EndIf, Session, SessionState
from tests.support.records import a_session, end_session

RUNNING, SUSPENDED, DISPATCHED = SessionState.RUNNING, SessionState.SUSPENDED, SessionState.DISPATCHED
FAR_MS = 2**42
OVERDUE = {"created_ms": now_ms() - 60_000, "deadline_ms": now_ms() - 30_000}


async def _stored(state: State, **fields: object) -> Session:
    session = a_session(**fields)  # type: ignore[arg-type]
    await state.sessions.create(session)
    return session


async def _state_of(state: State, session: Session) -> SessionState:
    found = await state.sessions.find(session.session_id)
    assert found is not None
    return found.state


async def test_an_older_connection_moves_nothing_once_a_newer_one_has_made_a_step(state: State) -> None:
    session = await _stored(state)
    sid = session.session_id
    await state.sessions.advance(sid, RUNNING, generation=1)
    await state.sessions.advance(sid, None, generation=2)
    for to in (SUSPENDED, None):
        with pytest.raises(Fenced):
            await state.sessions.advance(sid, to, generation=1, event={"event": "x"}, journal=[{"act": {}}])
    assert await _state_of(state, session) is RUNNING
    assert await state.sessions.journal(sid) == []
    assert await state.sessions.advance(sid, SUSPENDED, generation=2) is SUSPENDED


async def test_an_older_connection_ends_nothing_either_but_a_deadline_does(state: State) -> None:
    session = await _stored(state)
    await state.sessions.advance(session.session_id, RUNNING, generation=2)
    with pytest.raises(Fenced):
        await end_session(state, session.session_id, generation=1)
    assert await _state_of(state, session) is RUNNING
    ended = await end_session(state, session.session_id, SessionState.TIMED_OUT)
    assert isinstance(ended, Ended)


async def test_an_end_that_is_repeated_is_answered_the_same_though_a_newer_connection_came(state: State) -> None:
    session = await _stored(state)
    await state.sessions.advance(session.session_id, RUNNING, generation=1)
    first = await end_session(state, session.session_id, generation=1, end_id="e")
    assert await end_session(state, session.session_id, generation=1, end_id="e") == first
    assert await state.sessions.advance(session.session_id, RUNNING, generation=2) is SessionState.COMPLETED


async def test_generations_are_compared_as_numbers(state: State) -> None:
    session = await _stored(state)
    await state.sessions.advance(session.session_id, RUNNING, generation=9_999_999_999_999_999 // 10)
    await state.sessions.advance(session.session_id, RUNNING, generation=1_000_000_000_000_000)
    with pytest.raises(Fenced):
        await state.sessions.advance(session.session_id, RUNNING, generation=999_999_999_999_998)


async def test_the_journal_holds_each_step_in_order_and_goes_with_the_end(state: State) -> None:
    session = await _stored(state)
    sid = session.session_id
    await state.sessions.advance(sid, RUNNING, journal=[{"act": {"n": 1}}])
    await state.sessions.advance(sid, None, journal=[{"results": [{"x": "ü"}]}, {"act": {"n": 2}}])
    assert await state.sessions.journal(sid) == [{"act": {"n": 1}}, {"results": [{"x": "ü"}]}, {"act": {"n": 2}}]
    await end_session(state, sid)
    assert await state.sessions.journal(sid) == []
    await state.sessions.advance(sid, None, journal=[{"act": {"n": 3}}])
    assert await state.sessions.journal(sid) == [], "nothing is written behind the end"


async def test_of_a_session_that_is_not_stored_nothing_is_kept(state: State) -> None:
    with pytest.raises(SessionNotFound):
        await state.sessions.advance("nobody", RUNNING, journal=[{"act": {}}])
    assert await state.connection.command("EXISTS", state.keys.session_journal("nobody")) == 0


# -- trying again ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("to", [None, DISPATCHED, SUSPENDED])
async def test_a_task_that_nobody_took_waits_for_its_device_again(state: State, to: SessionState | None) -> None:
    session = await _stored(state, max_attempts=2)
    if to is not None:
        await state.sessions.advance(session.session_id, to)
    assert await state.sessions.requeue(session.session_id, 1) == 2
    assert await state.sessions.requeue(session.session_id, 1) == 2, "the answer may have got lost"
    found = await state.sessions.find(session.session_id)
    assert found is not None
    assert (found.state, found.attempts, found.queue_until_ms) == (SessionState.CREATED, 2, session.deadline_ms)
    assert found.dispatched_ms is None
    await state.sessions.advance(session.session_id, DISPATCHED)
    assert await state.sessions.requeue(session.session_id, 2) is None, "that was the last attempt"


async def test_a_task_that_was_taken_is_not_tried_again(state: State) -> None:
    session = await _stored(state, max_attempts=5)
    await state.sessions.advance(session.session_id, RUNNING)
    await state.sessions.advance(session.session_id, SUSPENDED)
    assert await state.sessions.requeue(session.session_id, 1) is None


async def test_nor_is_one_that_was_sent_where_that_is_as_good_as_taken(state: State) -> None:
    session = await _stored(state, max_attempts=5)
    await state.sessions.advance(session.session_id, DISPATCHED)
    assert await state.sessions.requeue(session.session_id, 1, unsent=True) is None
    fresh = await _stored(state, max_attempts=5)
    assert await state.sessions.requeue(fresh.session_id, 1, unsent=True) == 2


async def test_a_task_that_waits_anyway_keeps_its_attempts_and_its_time(state: State) -> None:
    until_ms = a_session().created_ms + 30_000
    session = await _stored(state, max_attempts=5, queue_until_ms=until_ms)
    assert await state.sessions.requeue(session.session_id, 1) is None
    found = await state.sessions.find(session.session_id)
    assert found is not None
    assert (found.attempts, found.queue_until_ms) == (1, until_ms)


async def test_after_its_deadline_nothing_is_tried_again(state: State) -> None:
    session = await _stored(state, max_attempts=5, created_ms=now_ms() - 60_000, deadline_ms=now_ms() - 30_000)
    assert await state.sessions.requeue(session.session_id, 1) is None


async def test_what_ended_or_is_not_stored_is_not_tried_again(state: State) -> None:
    session = await _stored(state, max_attempts=5)
    await end_session(state, session.session_id)
    assert await state.sessions.requeue(session.session_id, 1) is None
    assert await state.sessions.requeue("nobody", 1) is None


# -- ends on a condition -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "to", "end_if", "ends"),
    [
        ({"queue_until_ms": FAR_MS}, None, EndIf.GONE, False),
        ({"queue_until_ms": FAR_MS}, DISPATCHED, EndIf.GONE, True),
        ({"queue_until_ms": 1}, None, EndIf.GONE, True),
        ({}, None, EndIf.GONE, True),
        ({}, SUSPENDED, EndIf.GONE, True),
        ({"queue_until_ms": FAR_MS}, None, EndIf.UNTAKEN, False),
        ({"queue_until_ms": 1}, None, EndIf.UNTAKEN, True),
        ({"queue_until_ms": 1}, DISPATCHED, EndIf.UNTAKEN, False),
        ({"queue_until_ms": 1}, SUSPENDED, EndIf.UNTAKEN, False),
        ({}, RUNNING, EndIf.OVERDUE, False),
        (OVERDUE, RUNNING, EndIf.OVERDUE, True),
    ],
)
async def test_an_end_on_a_condition(
    state: State, fields: dict[str, int], to: SessionState | None, end_if: EndIf, *, ends: bool
) -> None:
    session = await _stored(state, **fields)
    if to is not None:
        await state.sessions.advance(session.session_id, to)
    ended = await end_session(state, session.session_id, SessionState.CANCELLED, end_if=end_if)
    assert isinstance(ended, Ended) is ends
    if not ends:
        assert ended is (to or SessionState.CREATED)
