"""The index of sessions: newest first, in pages, each session once, and capped."""

import pytest

from shared_state import State, session_index
from shared_state.errors import SessionExists, StateUnavailable
from shared_state.sessions import SessionState
from tests.support.records import a_registration, a_session, end_session, ref_of


async def _listed(state: State, client_id: str | None = None) -> list[str]:
    page = await state.sessions.page(client_id=client_id, limit=1_000)
    return [session.session_id for _, session in page if session]


async def test_the_newest_come_first(state: State) -> None:
    # Created in no order, and with a time of fewer digits among them.
    for sid, created_ms in (("b", 2_000), ("c", 30_000), ("a", 100)):
        await state.sessions.create(a_session(sid, created_ms=created_ms))
    assert await _listed(state) == ["c", "b", "a"]


async def test_pages_follow_each_other_without_gap_or_repetition(state: State) -> None:
    for i in range(10):
        await state.sessions.create(a_session(f"s{i}", created_ms=1_000 + i // 2))
    found: list[str] = []
    before = ""
    while page := await state.sessions.page(client_id=None, limit=3, before=before):
        assert len(page) <= 3
        found += [session.session_id for _, session in page if session]
        before = page[-1][0]
    assert found == [f"s{i}" for i in range(9, -1, -1)]


async def test_a_page_is_stable_while_newer_sessions_arrive(state: State) -> None:
    for i in range(4):
        await state.sessions.create(a_session(f"s{i}", created_ms=1_000 + i))
    first = await state.sessions.page(client_id=None, limit=2)
    await state.sessions.create(a_session("newer", created_ms=9_000))
    second = await state.sessions.page(client_id=None, limit=2, before=first[-1][0])
    assert [place.partition(":")[2] for place, _ in first + second] == ["s3", "s2", "s1", "s0"]


async def test_a_session_that_lived_out_its_time_leaves_an_empty_place(state: State) -> None:
    await state.sessions.create(a_session("gone"))
    await state.connection.command("DEL", state.keys.session("gone"))
    ((place, session),) = await state.sessions.page(client_id=None, limit=10)
    assert place.endswith(":gone")
    assert session is None


async def test_sessions_of_one_client_are_listed_apart(state: State) -> None:
    for client_id in ("device-1", "device-2"):
        await state.clients.register(a_registration(client_id))
        session = a_session(f"of-{client_id}", client_id=client_id)
        await state.sessions.create(session)
        await state.inbox.post(client_id, b"task", session=ref_of(session))
    assert await _listed(state, "device-1") == ["of-device-1"]
    assert sorted(await _listed(state)) == ["of-device-1", "of-device-2"]


async def test_the_index_is_capped(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_index, "INDEX_BOUND", 3)
    for i in range(5):
        await state.sessions.create(a_session(f"s{i}", created_ms=1_000 + i))
    assert await _listed(state) == ["s4", "s3", "s2"]


async def test_a_refused_session_does_not_list_the_one_that_has_the_id_twice(state: State) -> None:
    await state.sessions.create(a_session("s1", created_ms=1_000))
    with pytest.raises(SessionExists):
        await state.sessions.create(a_session("s1", created_ms=2_000))
    assert await _listed(state) == ["s1"]


async def test_an_id_that_is_used_again_is_listed_once(state: State) -> None:
    await state.sessions.create(a_session("s1", owner="boss", created_ms=1_000))
    await end_session(state, "s1", SessionState.COMPLETED)
    await state.sessions.create(a_session("s1", owner="boss", created_ms=2_000))
    assert await _listed(state) == ["s1"]


async def test_an_id_that_is_used_again_is_listed_once_for_its_client_too(state: State) -> None:
    await state.clients.register(a_registration())
    for created_ms in (1_000, 2_000):
        session = a_session("s1", owner="boss", created_ms=created_ms)
        await state.sessions.create(session)
        await state.inbox.post("device-1", b"task", session=ref_of(session))
        await end_session(state, "s1", SessionState.COMPLETED)
    assert await _listed(state, "device-1") == ["s1"]


async def test_the_states_of_many_sessions_are_read_at_once(state: State) -> None:
    for sid in ("a", "b", "c"):
        await state.sessions.create(a_session(sid))
    await end_session(state, "b", SessionState.FAILED, error="why")
    assert await state.sessions.states(["c", "nothing", "b"]) == {
        "c": (SessionState.CREATED, None),
        "b": (SessionState.FAILED, "why"),
    }
    assert await state.sessions.states([]) == {}


async def test_what_cannot_be_listed_is_told_and_holds_up_nobody(
    state: State, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    genuine = state.connection.script

    async def refuse() -> None:
        raise StateUnavailable("Redis is away")

    def script(name: str, *args: object, **rest: object) -> object:
        return refuse() if name == "index_add" else genuine(name, *args, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(state.connection, "script", script)
    session = a_session("unlisted")
    await state.sessions.create(session)
    assert await _listed(state) == []
    assert await state.sessions.find("unlisted") == session
    (record,) = [r for r in caplog.records if r.getMessage() == "cannot add sessions to the list of sessions"]
    assert (record.__dict__["count"], record.__dict__["reason"]) == (1, "Redis is away")
