"""Sessions: from created to an end that stands, and what is kept of them."""

import asyncio
from typing import Any

import pytest

from aip_cluster.protocol.ids import now_ms
from shared_state import State
from shared_state.errors import SessionExists, SessionNotFound
from shared_state.sessions import TERMINAL, Ended, EndIf, SessionState
from tests.support.backends import Backend
from tests.support.records import a_session, end_session

S = SessionState


async def test_a_session_is_found_as_it_was_created(state: State) -> None:
    given = a_session(owner="boss@device-1", metadata={"agent_name": "HostAgent", "deep": {"null": None}})
    await state.sessions.create(given)
    found = await state.sessions.find(given.session_id)
    assert found is not None
    assert (found.state, found.owner, found.request) == (S.CREATED, "boss@device-1", "do it")
    assert (found.client_id, found.task_name, found.planner) == ("device-1", given.session_id, "direct")
    assert (found.deadline_ms, found.timeout_s) == (given.deadline_ms, 60.0)
    assert found.metadata == given.metadata
    assert (found.dispatched_ms, found.started_ms, found.ended_ms, found.result, found.error) == (None,) * 5


async def test_nothing_is_found_under_an_unknown_id(state: State) -> None:
    assert await state.sessions.find("nothing") is None
    assert await state.sessions.events("nothing") == []


async def test_each_step_is_stamped_once_and_noted(state: State) -> None:
    session = a_session()
    await state.sessions.create(session)
    sid = session.session_id
    assert await state.sessions.advance(sid, S.DISPATCHED, event={"event": "sent"}, node_id="n") is S.DISPATCHED
    assert await state.sessions.advance(sid, S.RUNNING, event={"event": "one"}) is S.RUNNING
    first = await state.sessions.find(sid)
    assert await state.sessions.advance(sid, None, event={"event": "two", "x": None}) is S.RUNNING
    assert await state.sessions.advance(sid, S.RUNNING) is S.RUNNING
    second = await state.sessions.find(sid)
    assert first == second is not None
    assert second.node_id == "n"
    assert second.dispatched_ms is not None
    assert second.started_ms is not None
    events = await state.sessions.events(sid)
    assert [e.facts["event"] for e in events] == ["created", "sent", "one", "two"]
    assert events[3].facts == {"event": "two", "x": None}
    assert all(e.at_ms > 0 for e in events)
    assert await state.sessions.events(sid, after=events[1].event_id) == events[2:]


async def test_a_step_of_an_unknown_session_creates_nothing(state: State) -> None:
    with pytest.raises(SessionNotFound):
        await state.sessions.advance("nothing", S.RUNNING, event={"event": "x"}, node_id="n")
    assert await state.sessions.find("nothing") is None
    assert await state.sessions.events("nothing") == []


@pytest.mark.parametrize("end", sorted(TERMINAL))
async def test_an_end_is_stored_and_says_who_is_to_be_told(state: State, end: SessionState) -> None:
    session = a_session(owner="boss", task_name="job")
    await state.sessions.create(session)
    result = {"text": "ünï", "null": None, "list": [1, 2.5, True]}
    outcome = await end_session(state, session.session_id, end, result=result, error="why")
    assert outcome == Ended(session.session_id, "boss", "device-1", "job", created_ms=session.created_ms)
    found = await state.sessions.find(session.session_id)
    assert found is not None
    assert (found.state, found.result, found.error) == (end, result, "why")
    assert found.ended_ms is not None
    last = (await state.sessions.events(session.session_id))[-1].facts
    assert (last["event"], last["state"], last["error"]) == ("ended", end, "why")


@pytest.mark.parametrize("result", [0, False, "", [], {}, None, "text", 1.5, [None]], ids=repr)
async def test_any_json_value_is_a_result(state: State, result: Any) -> None:
    session = a_session()
    await state.sessions.create(session)
    await end_session(state, session.session_id, S.COMPLETED, result=result)
    found = await state.sessions.find(session.session_id)
    assert found is not None
    assert found.result == result
    assert type(found.result) is type(result)


async def test_the_first_end_stands(state: State) -> None:
    session = a_session()
    await state.sessions.create(session)
    assert isinstance(await end_session(state, session.session_id, S.COMPLETED, result=1), Ended)
    before = await state.sessions.find(session.session_id)
    events = await state.sessions.events(session.session_id)
    assert await end_session(state, session.session_id, S.FAILED, result=2, error="late") is S.COMPLETED
    assert await state.sessions.find(session.session_id) == before
    assert await state.sessions.events(session.session_id) == events


async def test_repeating_an_end_is_answered_the_same(state: State) -> None:
    """The first answer may have been lost: whoever ended it must still learn whom to tell."""
    session = a_session(owner="boss")
    await state.sessions.create(session)
    first = await end_session(state, session.session_id, S.COMPLETED, result=1, end_id="e1")
    assert isinstance(first, Ended)
    assert await end_session(state, session.session_id, S.COMPLETED, result=1, end_id="e1") == first
    assert await end_session(state, session.session_id, S.FAILED, end_id="e2") is S.COMPLETED
    events = await state.sessions.events(session.session_id)
    assert [e.facts["event"] for e in events] == ["created", "ended"]


async def test_repeating_a_creation_changes_nothing(state: State) -> None:
    session = a_session(owner="boss")
    await state.sessions.create(session)
    await state.sessions.advance(session.session_id, S.RUNNING)
    await state.sessions.create(session)
    found = await state.sessions.find(session.session_id)
    assert found is not None
    assert found.state is S.RUNNING
    assert len(await state.sessions.events(session.session_id)) == 1


async def test_of_many_ends_at_once_one_wins(state: State) -> None:
    session = a_session()
    await state.sessions.create(session)
    ends = sorted(TERMINAL)
    outcomes = await asyncio.gather(
        *(end_session(state, session.session_id, ends[i % 4], result=i) for i in range(100))
    )
    won = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Ended)]
    assert len(won) == 1
    found = await state.sessions.find(session.session_id)
    assert found is not None
    assert (found.state, found.result) == (ends[won[0] % 4], won[0])
    assert {o for o in outcomes if not isinstance(o, Ended)} == {found.state}
    assert [e.facts["event"] for e in await state.sessions.events(session.session_id)] == ["created", "ended"]


async def test_a_step_after_the_end_changes_nothing(state: State) -> None:
    session = a_session()
    await state.sessions.create(session)
    await end_session(state, session.session_id, S.CANCELLED)
    before = await state.sessions.find(session.session_id)
    late = await state.sessions.advance(session.session_id, S.RUNNING, event={"event": "late"}, node_id="x")
    assert late is S.CANCELLED
    assert await state.sessions.find(session.session_id) == before
    assert [e.facts["event"] for e in await state.sessions.events(session.session_id)] == ["created", "ended"]


async def test_what_is_not_there_cannot_end(state: State) -> None:
    with pytest.raises(SessionNotFound):
        await end_session(state, "nothing", S.COMPLETED)
    assert await state.sessions.find("nothing") is None


async def test_an_end_for_being_overdue_waits_for_the_deadline(state: State) -> None:
    early = a_session(deadline_ms=now_ms() + 60_000)
    overdue = a_session(deadline_ms=now_ms() - 1)
    for session in (early, overdue):
        await state.sessions.create(session)
    assert await end_session(state, early.session_id, S.TIMED_OUT, end_if=EndIf.OVERDUE) is S.CREATED
    found = await state.sessions.find(early.session_id)
    assert found is not None
    assert (found.state, found.ended_ms) == (S.CREATED, None)
    assert isinstance(await end_session(state, overdue.session_id, S.TIMED_OUT, end_if=EndIf.OVERDUE), Ended)


async def test_an_ended_session_lives_as_long_as_its_retention(backend: Backend) -> None:
    state = backend.state(result_ttl_s=100)
    session = a_session(deadline_ms=now_ms() + 1_000_000, created_ms=now_ms())
    await state.sessions.create(session)
    await state.sessions.advance(session.session_id, S.DISPATCHED, event={"event": "dispatched"})
    keys = (state.keys.session(session.session_id), state.keys.session_events(session.session_id))
    for key in keys:
        assert 1_000_000 < await state.connection.command("PTTL", key) <= 1_100_000
    await end_session(state, session.session_id, S.COMPLETED)
    for key in keys:
        assert 0 < await state.connection.command("PTTL", key) <= 100_000


@pytest.mark.parametrize("owner", ["", "boss"])
async def test_the_id_of_a_session_under_way_is_not_used_again(state: State, owner: str) -> None:
    first = a_session("s1", owner=owner, request="first")
    await state.sessions.create(first)
    with pytest.raises(SessionExists, match="'s1' is in use"):
        await state.sessions.create(a_session("s1", owner=owner, request="second", created_ms=first.created_ms + 1))
    found = await state.sessions.find("s1")
    assert found is not None
    assert found.request == "first"


async def test_the_owner_may_use_the_id_of_an_ended_session_again(state: State) -> None:
    await state.sessions.create(a_session("s1", owner="boss", request="first", created_ms=1_000))
    await end_session(state, "s1", S.FAILED, result="old", error="old")
    await state.sessions.create(a_session("s1", owner="boss", request="second"))
    found = await state.sessions.find("s1")
    assert found is not None
    assert (found.state, found.request, found.result, found.error) == (S.CREATED, "second", None, None)
    assert [e.facts["event"] for e in await state.sessions.events("s1")] == ["created"]


@pytest.mark.parametrize(("owner", "thief"), [("boss", "thief"), ("boss", ""), ("", "thief"), ("", "")])
async def test_nobody_else_may_use_an_id_again(state: State, owner: str, thief: str) -> None:
    await state.sessions.create(a_session("s1", owner=owner, request="first", created_ms=1_000))
    await end_session(state, "s1", S.COMPLETED, result="mine")
    with pytest.raises(SessionExists):
        await state.sessions.create(a_session("s1", owner=thief, request="second"))
    found = await state.sessions.find("s1")
    assert found is not None
    assert (found.request, found.result) == ("first", "mine")


async def test_of_many_that_create_one_id_at_once_one_succeeds(state: State) -> None:
    sessions = [a_session("s1", owner="boss", request=str(i), created_ms=1_000 + i) for i in range(50)]
    outcomes = await asyncio.gather(*(state.sessions.create(s) for s in sessions), return_exceptions=True)
    assert outcomes.count(None) == 1
    found = await state.sessions.find("s1")
    assert found is not None
    assert found.request == str(outcomes.index(None))


async def test_nothing_is_left_of_a_discarded_session(state: State) -> None:
    session = a_session()
    await state.sessions.create(session)
    await state.sessions.discard(session)
    await state.sessions.discard(session)
    assert await state.sessions.find(session.session_id) is None
    assert await state.sessions.events(session.session_id) == []
    assert await state.sessions.page(client_id=None, limit=10) == []
