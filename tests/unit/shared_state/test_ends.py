"""Ends that travel together: each stored as a call of its own would have stored it, or left to such a call."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from shared_state import State
from shared_state.end_batch import FULL_BYTES, MOST
from shared_state.errors import StateUnavailable
from shared_state.keys import new_session_id
from shared_state.redis.connection import Connection
from shared_state.sessions import Behind, Ended, Ending, Session, SessionState
from tests.support.backends import Backend
from tests.support.records import a_registration, a_session, active_sessions, end_session

DEVICES = ("device-1", "device-2", "device-3")
S = SessionState


@pytest.fixture
async def state(backend: Backend) -> State:
    """Three devices are registered on `node-a`."""
    state = backend.state(lease_ttl_s=60.0)
    for device in DEVICES:
        await state.clients.register(a_registration(device))
    return state


async def _started(state: State, device: str = "device-1", **fields: Any) -> Session:
    session = a_session(new_session_id(device), client_id=device, **fields)
    assert await state.session_creator.start(session)
    return session


def _ending(session: Session, **fields: Any) -> Ending:
    return Ending(session.session_id, fields.pop("state", S.COMPLETED), client_id=session.client_id, **fields)


async def _end(state: State, *endings: tuple[Session, Ending]) -> list[bool]:
    """What came of ends that are put in one turn."""
    came: list[bool | None] = [None] * len(endings)
    for number, (session, ending) in enumerate(endings):

        def done(ended: bool, number: int = number) -> None:
            came[number] = ended

        state.end_batch.put(ending, deadline_ms=session.deadline_ms, done=done)
    await state.end_batch.flush()
    assert None not in came
    return [bool(one) for one in came]


def _count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sessions each call was for."""
    calls: list[int] = []
    genuine = Connection.script

    def watched(self: Connection, name: str, keys: Sequence[str], args: Sequence[Any] = (), **options: Any) -> Any:
        if name == "session_ends":
            calls.append(len(keys) // 2)
        return genuine(self, name, keys, args, **options)

    monkeypatch.setattr(Connection, "script", watched)
    return calls


async def test_what_is_ended_together_is_as_if_it_was_ended_alone(state: State) -> None:
    behind = Behind(
        stamps={"dispatched_ms": 1_700_000_000_000}, events=[(1_700_000_000_000, b'{"event":"dispatched"}')]
    )
    ends: list[dict[str, Any]] = [
        {"result": {"text": "ünï", "null": None}, "behind": behind},
        {"state": S.FAILED, "error": "why", "result": None},
        {"result": [1, 2.5, True]},
    ]
    together = [await _started(state, device) for device in DEVICES]
    alone = [await _started(state, device) for device in DEVICES]
    assert await _end(state, *((s, _ending(s, **e)) for s, e in zip(together, ends, strict=True))) == [True] * 3
    for one, other, end in zip(together, alone, ends, strict=True):
        assert isinstance(await state.sessions.end(_ending(other, **end)), Ended)
        found, expected = await state.sessions.find(one.session_id), await state.sessions.find(other.session_id)
        assert found is not None
        assert expected is not None
        for name in ("state", "result", "error", "dispatched_ms", "prompt_tokens", "node_id", "started_ms"):
            assert getattr(found, name) == getattr(expected, name), name
        assert abs((found.ended_ms or 0) - (expected.ended_ms or 0)) < 60_000
        facts = [[e.facts for e in await state.sessions.events(s.session_id)][1:] for s in (one, other)]
        assert facts[0] == facts[1]
    for device in DEVICES:
        assert await active_sessions(state, device) == 0
        assert await state.session_creator.waiting(device, but=()) == []


async def test_what_is_put_in_one_turn_travels_together(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [await _started(state, DEVICES[i % 3]) for i in range(9)]
    calls = _count_calls(monkeypatch)
    assert await _end(state, *((s, _ending(s)) for s in sessions)) == [True] * 9
    # In a Cluster, as many as there are devices: each has a slot of its own.
    assert sorted(calls) == ([9] if state.connection.one_server else [3, 3, 3])


async def test_a_call_takes_only_so_many(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _count_calls(monkeypatch)
    session = await _started(state)
    ends = [(session, _ending(session)) for _ in range(MOST + 5)]
    assert (await _end(state, *ends)).count(True) == 1
    assert sorted(calls) == [5, MOST]


async def test_large_results_do_not_travel_together(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [await _started(state) for _ in range(5)]
    calls = _count_calls(monkeypatch)
    large = "x" * FULL_BYTES
    results = ["small", large, large, "small", "small"]
    ends = [(s, _ending(s, result=r)) for s, r in zip(sessions, results, strict=True)]
    assert await _end(state, *ends) == [True] * 5
    assert calls == [2, 1, 2]
    for session, result in zip(sessions, results, strict=True):
        found = await state.sessions.find(session.session_id)
        assert found is not None
        assert found.result == result


async def test_whoever_is_more_than_a_start_is_left_and_the_others_are_ended(state: State) -> None:
    plain, last = await _started(state), await _started(state)
    stepped, watched, owned = await _started(state), await _started(state), await _started(state, owner="boss")
    with_commands, ended = await _started(state, commands=b"[]"), await _started(state)
    await state.sessions.advance(stepped.session_id, S.RUNNING, event={"event": "x"}, generation=1)
    await state.sessions.watch(watched.session_id, "node-a")
    await end_session(state, ended.session_id, S.CANCELLED, client_id="device-1")
    missing = a_session(new_session_id("device-1"))
    everyone = [plain, stepped, watched, owned, with_commands, ended, missing, last]
    before = {s.session_id: await state.sessions.find(s.session_id) for s in everyone}
    came = await _end(state, *((s, _ending(s, result=1)) for s in everyone))
    assert came == [True, *[False] * 6, True]
    for session in everyone[1:-1]:
        assert await state.sessions.find(session.session_id) == before[session.session_id]
    assert await active_sessions(state, "device-1") == 4


async def test_of_two_ends_in_one_call_the_first_stands(state: State) -> None:
    session = await _started(state)
    assert await _end(state, (session, _ending(session, result=1)), (session, _ending(session, result=2))) == [
        True,
        False,
    ]
    found = await state.sessions.find(session.session_id)
    assert found is not None
    assert found.result == 1


async def test_an_end_that_is_repeated_because_its_answer_was_lost_is_the_same_end(state: State) -> None:
    session = await _started(state)
    ending = _ending(session, result=1)
    assert await _end(state, (session, ending)) == [True]
    assert await _end(state, (session, ending)) == [False]
    assert isinstance(await state.sessions.end(ending), Ended)
    assert [e.facts["event"] for e in await state.sessions.events(session.session_id)] == ["created", "ended"]


async def test_a_life_is_cut_to_the_retention_where_that_is_worth_it(backend: Backend) -> None:
    state = backend.state(lease_ttl_s=60.0, result_ttl_s=100)
    await state.clients.register(a_registration())
    created = a_session().created_ms
    short, long = [await _started(state, deadline_ms=created + ms) for ms in (900, 5_000_000)]
    third = await _started(state, deadline_ms=created + 900)
    assert await _end(state, *((s, _ending(s, end_id=s.session_id)) for s in (short, long, third))) == [True] * 3
    for session in (short, long, third):
        left_ms = await state.connection.command("PTTL", state.keys.session(session.session_id))
        assert 90_000 < left_ms <= 101_000
        assert (await state.connection.command("HGET", state.keys.session(session.session_id), "end")).startswith(
            session.session_id.encode()
        )


async def test_where_redis_is_away_all_of_a_call_are_left(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused() -> None:
        raise StateUnavailable("Redis cannot be reached")

    sessions = [await _started(state, device) for device in DEVICES]
    with monkeypatch.context() as away:
        away.setattr(state.connection, "script", lambda *_, **__: refused())
        assert await _end(state, *((s, _ending(s)) for s in sessions)) == [False] * 3
    assert await _end(state, *((s, _ending(s)) for s in sessions)) == [True] * 3


async def test_what_breaks_behind_one_end_keeps_nobody_else_from_hearing(state: State) -> None:
    first, second = await _started(state), await _started(state)
    came: list[bool] = []

    def breaks(_: bool) -> None:
        raise RuntimeError

    state.end_batch.put(_ending(first), deadline_ms=first.deadline_ms, done=breaks)
    state.end_batch.put(_ending(second), deadline_ms=second.deadline_ms, done=came.append)
    await state.end_batch.flush()
    assert came == [True]


async def test_nobody_has_to_flush(state: State) -> None:
    session = await _started(state)
    ended = asyncio.Event()
    state.end_batch.put(_ending(session), deadline_ms=session.deadline_ms, done=lambda _: ended.set())
    await ended.wait()
    found = await state.sessions.find(session.session_id)
    assert found is not None
    assert found.state is S.COMPLETED
