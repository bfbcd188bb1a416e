"""Batches: what was asked for is stored before anything is sent, and what became of it is noted beside it."""

import pytest

from shared_state import State
from shared_state.batches import Batch, BatchItem
from tests.support.backends import Backend

ITEMS = [BatchItem(f"device-{i}", task_name=f"job-{i}") for i in range(25)]
BATCH = Batch("b1", "node-a", 1_000, 10, ITEMS)


async def test_a_batch_is_found_as_it_was_created_items_in_order(state: State) -> None:
    await state.batches.create(BATCH, longest_s=60)
    assert await state.batches.find("b1") == BATCH
    assert await state.batches.find("nothing") is None


async def test_what_became_of_an_item_is_noted(state: State) -> None:
    await state.batches.create(BATCH, longest_s=60)
    sent, refused = BatchItem("device-3", session_id="s3"), BatchItem("device-11", error="Client not online")
    await state.batches.note("b1", 3, sent)
    await state.batches.note("b1", 11, refused)
    found = await state.batches.find("b1")
    assert found is not None
    assert (found.items[3], found.items[11], found.items[12]) == (sent, refused, ITEMS[12])
    assert len(found.items) == 25


async def test_a_batch_lives_as_long_as_its_longest_task_and_the_results(backend: Backend) -> None:
    state = backend.state(result_ttl_s=100)
    await state.batches.create(BATCH, longest_s=60)
    assert 100_000 < await state.connection.command("PTTL", state.keys.batch("b1")) <= 160_000


async def test_a_late_note_does_not_bring_a_batch_back_for_ever(state: State) -> None:
    """The batch may have lived out its time while its items were still being worked off."""
    await state.batches.note("b1", 0, BatchItem("device-0", session_id="s0"))
    assert await state.batches.find("b1") is None
    assert await state.connection.command("PTTL", state.keys.batch("b1")) != -1


@pytest.mark.parametrize("count", [0, 1, 1_000])
async def test_batches_of_any_size(state: State, count: int) -> None:
    batch = Batch("b2", "node-a", 1, 1, [BatchItem(f"d{i}") for i in range(count)])
    await state.batches.create(batch, longest_s=1)
    assert await state.batches.find("b2") == batch
