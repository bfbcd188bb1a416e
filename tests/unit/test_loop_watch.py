"""The watch of the event loop sees whatever holds it."""

import asyncio
import time

import pytest

from tests.support.loop_watch import LoopWatch

HELD_S = 0.3


def _spin() -> None:
    until_s = time.thread_time() + HELD_S
    while time.thread_time() < until_s:
        pass


@pytest.mark.parametrize("hold", [_spin, lambda: time.sleep(HELD_S)], ids=["computing", "blocking"])
async def test_what_holds_the_loop_is_seen(hold: object) -> None:
    assert callable(hold)
    async with LoopWatch() as watch:
        await asyncio.sleep(0.02)
        hold()
    assert watch.longest_gap_s > 0.9 * HELD_S


async def test_a_loop_that_is_free_has_no_gap_of_that_length() -> None:
    async with LoopWatch() as watch:
        for _ in range(50):
            await asyncio.sleep(0.002)
    assert watch.longest_gap_s < HELD_S
