"""What is due: claimed by one node at a time, again after that node's death, and forgotten once it was looked at."""

import asyncio

import pytest

from shared_state import State, delay_queue
from shared_state.delay_queue import DueItem, DueKind
from tests.support.wait import until

SOON = 0.0


async def _claimed(state: State) -> list[DueItem]:
    found: list[DueItem] = []

    async def some() -> bool:
        found.extend(await state.delay_queue.claim())
        return bool(found)

    await until(some, "something is due")
    return found


async def test_nothing_is_due_before_its_time(state: State) -> None:
    assert await state.delay_queue.claim() == []
    await state.delay_queue.add(DueKind.CLIENT, "device-1", 60)
    assert await state.delay_queue.claim() == []


async def test_an_id_comes_back_as_it_was_given(state: State) -> None:
    await state.delay_queue.add(DueKind.SESSION, "galaxy:with:colons@d", SOON)
    item = (await _claimed(state))[0]
    assert (item.kind, item.item_id) == (DueKind.SESSION, "galaxy:with:colons@d")


async def test_what_one_node_claimed_no_other_gets(state: State) -> None:
    for i in range(20):
        await state.delay_queue.add(DueKind.CLIENT, f"d{i}", SOON)
    await asyncio.sleep(0.01)
    claims = await asyncio.gather(*(state.delay_queue.claim() for _ in range(10)))
    assert sorted(i.item_id for items in claims for i in items) == sorted(f"d{i}" for i in range(20))


async def test_what_a_dead_node_claimed_is_due_again(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    await state.delay_queue.add(DueKind.CLIENT, "device-1", SOON)
    monkeypatch.setattr(delay_queue, "CLAIM_MS", 10)
    first = (await _claimed(state))[0]
    second = (await _claimed(state))[0]
    assert (first.item_id, first.claim != second.claim) == ("device-1", True)
    await state.delay_queue.done(first)
    assert await _claimed(state), "only the claim that stands may forget it"


async def test_what_was_looked_at_is_forgotten(state: State) -> None:
    await state.delay_queue.add(DueKind.CLIENT, "device-1", SOON)
    for _ in range(2):
        for item in await state.delay_queue.claim():
            await state.delay_queue.done(item)
    assert await state.connection.command("EXISTS", state.keys.due()) == 0


async def test_what_became_due_anew_while_it_was_looked_at_is_not_forgotten(state: State) -> None:
    """A client came back and left again meanwhile."""
    await state.delay_queue.add(DueKind.CLIENT, "device-1", SOON)
    item = (await _claimed(state))[0]
    await state.delay_queue.add(DueKind.CLIENT, "device-1", 60)
    await state.delay_queue.done(item)
    assert await state.connection.command("ZCARD", state.keys.due()) == 1
    assert await state.delay_queue.claim() == []


async def test_the_time_given_last_counts(state: State) -> None:
    await state.delay_queue.add(DueKind.CLIENT, "device-1", 60)
    await state.delay_queue.add(DueKind.CLIENT, "device-1", SOON)
    assert len(await _claimed(state)) == 1


async def test_a_claim_takes_a_bounded_number(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delay_queue, "CLAIM_AT_MOST", 3)
    for i in range(5):
        await state.delay_queue.add(DueKind.CLIENT, f"d{i}", SOON)
    await asyncio.sleep(0.01)
    assert [len(await state.delay_queue.claim()) for _ in range(3)] == [3, 2, 0]


async def test_a_kind_of_another_version_is_left_to_its_nodes(state: State) -> None:
    await state.delay_queue.add(DueKind.CLIENT, "device-1", SOON)
    await state.connection.command("ZADD", state.keys.due(), 1, "comet:halley")
    assert [i.item_id for i in await _claimed(state)] == ["device-1"]


async def test_it_tells_how_much_there_is_and_how_long_the_oldest_has_been_left(state: State) -> None:
    assert await state.delay_queue.look() == (0, 0.0)
    await state.delay_queue.add(DueKind.CLIENT, "later", 100.0)
    assert await state.delay_queue.look() == (1, 0.0)
    # Nobody was there for all these years.
    await state.connection.command("ZADD", state.keys.due(), 1, "session:forgotten")
    count, overdue_s = await state.delay_queue.look()
    assert count == 2
    assert overdue_s > 1_000_000_000
