"""Long lists in slices: whole, in order, and with turns for others in between."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from shared_state.chunks import merged, slices


@given(st.lists(st.lists(st.text(max_size=3), max_size=6), max_size=9))
def test_runs_are_merged_into_one_sorted_list(lists: list[list[str]]) -> None:
    runs = [sorted(each) for each in lists]
    assert asyncio.run(merged(runs)) == sorted(item for each in lists for item in each)


async def test_a_list_comes_out_whole_and_in_parts() -> None:
    assert [list(part) async for part in slices(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [list(part) async for part in slices(range(0), 3)] == []


async def test_others_have_their_turn_between_two_slices() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    seen = [turns async for _ in slices(range(30), 10)]
    before = turns
    await merged([["c"], ["b"], ["a"]])
    task.cancel()
    assert seen[0] < seen[1] < seen[2]
    assert turns > before
