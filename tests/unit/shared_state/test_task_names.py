"""Task names: one session under way has the name; after its end the next one may have it."""

import asyncio

import pytest

from aip_cluster.protocol import new_id
from shared_state import State
from shared_state.errors import TaskNameTaken
from shared_state.sessions import SessionState
from tests.support.backends import Backend
from tests.support.records import a_session, end_session


async def _claim(state: State, session_id: str, *, token: str | None = None) -> str:
    """Claim the name `job`; without a `token` as a claim of its own. Returns who had the name before."""
    return await state.sessions.claim_task("job", session_id, token=token or new_id(), span_s=60)


async def _started(state: State, session_id: str) -> str:
    """Claim and create, as a dispatch does. Returns who had the name before."""
    before = await _claim(state, session_id)
    await state.sessions.create(a_session(session_id, task_name="job"))
    return before


async def test_a_claimed_name_means_the_session(state: State) -> None:
    assert await _started(state, "s1") == ""
    found = await state.sessions.find_by_task("job")
    assert found is not None
    assert found.session_id == "s1"


async def test_an_unknown_name_means_nothing(state: State) -> None:
    assert await state.sessions.find_by_task("job") is None


async def test_a_name_is_taken_while_its_session_is_under_way(state: State) -> None:
    await _started(state, "s1")
    with pytest.raises(TaskNameTaken, match="'job' is already running") as taken:
        await _claim(state, "s2")
    assert taken.value.session_id == "s1"


async def test_repeating_a_claim_is_safe(state: State) -> None:
    """Its answer may have been lost."""
    await _claim(state, "s1", token="t1")
    assert await _claim(state, "s1", token="t1") == ""
    await state.sessions.create(a_session("s1", task_name="job"))
    assert await _claim(state, "s1", token="t1") == ""


async def test_another_claim_for_the_same_session_is_another_claim(state: State) -> None:
    await _started(state, "s1")
    with pytest.raises(TaskNameTaken):
        await _claim(state, "s1")


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "timed_out"])
async def test_after_its_end_the_name_is_free(state: State, end: str) -> None:
    await _started(state, "s1")
    await end_session(state, "s1", SessionState(end))
    assert await _started(state, "s2") == "s1"
    found = await state.sessions.find_by_task("job")
    assert found is not None
    assert found.session_id == "s2"


async def test_a_released_name_is_free(state: State) -> None:
    await _claim(state, "s1", token="t1")
    await state.sessions.release_task("job", "t1")
    await state.sessions.release_task("job", "t1")
    assert await _started(state, "s2") == ""


async def test_a_release_gives_the_name_back_to_the_ended_session_that_had_it(state: State) -> None:
    """A dispatch that fails must not hide the last result under that name."""
    await _started(state, "s1")
    await end_session(state, "s1", SessionState.COMPLETED, result="kept")
    before = await _claim(state, "s2", token="t2")
    await state.sessions.release_task("job", "t2", restore=before)
    found = await state.sessions.find_by_task("job")
    assert found is not None
    assert found.result == "kept"
    assert await _started(state, "s3") == "s1", "and the name is free"


async def test_a_late_release_leaves_the_newer_session_its_name(state: State) -> None:
    await _claim(state, "s1", token="t1")
    await state.sessions.create(a_session("s1", task_name="job"))
    await end_session(state, "s1", SessionState.COMPLETED)
    await _started(state, "s2")
    await state.sessions.release_task("job", "t1", restore="")
    found = await state.sessions.find_by_task("job")
    assert found is not None
    assert found.session_id == "s2"


async def test_of_many_that_claim_an_ended_sessions_name_one_gets_it(state: State) -> None:
    await _started(state, "s0")
    await end_session(state, "s0", SessionState.COMPLETED)
    ids = [f"s{i}" for i in range(1, 51)]
    outcomes = await asyncio.gather(*(_claim(state, sid) for sid in ids), return_exceptions=True)
    assert [o for o in outcomes if o == "s0"] == ["s0"]
    assert all(isinstance(o, TaskNameTaken) for o in outcomes if o != "s0")


async def test_a_name_that_was_claimed_and_whose_session_is_not_stored_yet_is_taken(state: State) -> None:
    """Between its claim and its session a dispatch is under way: a second one may not slip in."""
    await _claim(state, "s1")
    with pytest.raises(TaskNameTaken):
        await _claim(state, "s2")


async def test_a_name_is_kept_as_long_as_its_session(backend: Backend) -> None:
    state = backend.state(result_ttl_s=100)
    await _claim(state, "s1")
    assert 100_000 < await state.connection.command("PTTL", state.keys.task("job")) <= 160_000
