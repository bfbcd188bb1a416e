"""Claims under a key: one holder at a time, one attempt for ever, one answer."""

import asyncio
from typing import Any

import pytest

from aip_cluster.protocol import new_id
from shared_state import State
from shared_state.errors import KeyOfAnotherRequest
from shared_state.idempotency import Answered, Busy, Mine
from tests.support.backends import Backend

ANSWER = Answered(200, b'{"session_id":"s1"}')


async def _claim(state: State, holder: str, attempt: bytes = b"first", request: str = "r") -> Mine | Busy | Answered:
    return await state.idempotency.claim("name", request, holder, attempt)


async def _time_is_over(state: State) -> None:
    """As if the holder had died as long ago as it takes."""
    await state.connection.command("HSET", state.keys.idempotency("name"), "until_ms", "0")


async def test_the_first_claim_is_its_holders(state: State) -> None:
    assert await _claim(state, "a") == Mine(b"first", continued=False)


async def test_repeating_a_claim_is_safe(state: State) -> None:
    """Its answer may have been lost: that is no attempt of somebody else's."""
    await _claim(state, "a")
    assert await _claim(state, "a") == Mine(b"first", continued=False)


async def test_while_one_holds_it_others_find_it_busy(state: State) -> None:
    await _claim(state, "a")
    busy = await _claim(state, "b", b"second")
    assert isinstance(busy, Busy)
    assert busy.attempt == b"first"
    assert 0 < busy.left_ms <= 15_000


async def test_of_many_at_once_one_is_the_holder(state: State) -> None:
    claims = await asyncio.gather(*(_claim(state, new_id(), f"attempt-{i}".encode()) for i in range(50)))
    mine = [c for c in claims if isinstance(c, Mine)]
    assert len(mine) == 1
    assert {c.attempt for c in claims if isinstance(c, Busy)} == {mine[0].attempt}


async def test_an_answer_is_given_to_whoever_asks_again(state: State) -> None:
    await _claim(state, "a")
    assert await state.idempotency.answer("name", "a", ANSWER)
    assert await state.idempotency.answer("name", "a", ANSWER), "safe to repeat"
    assert await _claim(state, "a") == await _claim(state, "b") == ANSWER


async def test_another_request_under_the_key_is_refused_whatever_became_of_the_first(state: State) -> None:
    await _claim(state, "a")
    with pytest.raises(KeyOfAnotherRequest):
        await _claim(state, "b", request="another")
    await state.idempotency.answer("name", "a", ANSWER)
    with pytest.raises(KeyOfAnotherRequest):
        await _claim(state, "b", request="another")


async def test_whoever_takes_over_from_a_dead_holder_goes_on_with_its_attempt(state: State) -> None:
    await _claim(state, "a")
    await _time_is_over(state)
    assert await _claim(state, "b", b"second") == Mine(b"first", continued=True)
    assert isinstance(await _claim(state, "c", b"third"), Busy), "and has a time of its own"


async def test_an_attempt_that_was_given_up_may_be_taken_over_at_once(state: State) -> None:
    await _claim(state, "a")
    assert await state.idempotency.give_up("name", "a")
    assert await _claim(state, "b", b"second") == Mine(b"first", continued=True)


async def test_a_key_that_was_forgotten_is_free_for_any_request(state: State) -> None:
    await _claim(state, "a")
    assert await state.idempotency.forget("name", "a")
    assert not await state.idempotency.forget("name", "a")
    assert await _claim(state, "b", b"second", request="another") == Mine(b"second", continued=False)


async def test_a_holder_whose_time_was_over_changes_nothing_any_more(state: State) -> None:
    await _claim(state, "a")
    await _time_is_over(state)
    await _claim(state, "b", b"second")
    late: list[Any] = [
        state.idempotency.answer("name", "a", Answered(200, b"late")),
        state.idempotency.give_up("name", "a"),
        state.idempotency.forget("name", "a"),
    ]
    assert [await call for call in late] == [False, False, False]
    assert isinstance(await _claim(state, "c", b"third"), Busy)
    await state.idempotency.answer("name", "b", ANSWER)
    assert await _claim(state, "c", b"third") == ANSWER


async def test_a_claim_lives_as_long_as_is_set_from_its_answer_on(backend: Backend) -> None:
    state = backend.state(idempotency_ttl_s=100)
    await _claim(state, "a")
    await state.connection.command("PEXPIRE", state.keys.idempotency("name"), 5_000)
    await _claim(state, "a")
    life_ms = await state.connection.command("PTTL", state.keys.idempotency("name"))
    assert life_ms <= 5_000, "asking again keeps no claim alive"
    await state.idempotency.answer("name", "a", ANSWER)
    assert 90_000 < await state.connection.command("PTTL", state.keys.idempotency("name")) <= 100_000
