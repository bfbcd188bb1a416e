"""Requests that wait for the end of a session: woken, not polling, and nothing is left of them."""

import asyncio

import pytest

from node.sessions.waiters import Waiters
from tests.support.wait import PATIENCE_S


async def test_a_waiter_is_woken_by_its_own_session() -> None:
    waiters = Waiters()
    with waiters.wait_for("s1") as one, waiters.wait_for("s2") as other:
        waiters.wake("s1")
        assert await one.wait(PATIENCE_S) is True
        assert await other.wait(0.01) is False


async def test_a_wake_up_before_the_wait_is_not_lost() -> None:
    waiters = Waiters()
    with waiters.wait_for("s1") as waiter:
        waiters.wake("s1")
        await asyncio.sleep(0)
        assert await waiter.wait(PATIENCE_S) is True


async def test_a_waiter_may_wait_again() -> None:
    waiters = Waiters()
    with waiters.wait_for("s1") as waiter:
        waiters.wake("s1")
        assert await waiter.wait(PATIENCE_S) is True
        assert await waiter.wait(0) is False
        waiters.wake("s1")
        assert await waiter.wait(PATIENCE_S) is True


async def test_everybody_who_waits_for_a_session_is_woken() -> None:
    waiters = Waiters()

    async def wait() -> bool:
        with waiters.wait_for("s1") as waiter:
            return await waiter.wait(PATIENCE_S)

    tasks = [asyncio.create_task(wait()) for _ in range(20)]
    await asyncio.sleep(0)
    waiters.wake("s1")
    assert await asyncio.gather(*tasks) == [True] * 20


async def test_after_a_gap_everybody_looks_again() -> None:
    waiters = Waiters()
    with waiters.wait_for("s1") as one, waiters.wait_for("s2") as two:
        waiters.wake_all()
        assert await one.wait(PATIENCE_S)
        assert await two.wait(PATIENCE_S)


async def test_a_stop_lets_everybody_go() -> None:
    waiters = Waiters()
    with waiters.wait_for("s1") as waiter:
        waiters.stop()
        assert await waiter.wait(PATIENCE_S)
    assert waiters.stopping


async def test_nothing_is_kept_of_those_who_went() -> None:
    waiters = Waiters()
    for _ in range(3):
        with waiters.wait_for("s1"), waiters.wait_for("s1"):
            pass
    with pytest.raises(RuntimeError), waiters.wait_for("s2"):
        raise RuntimeError
    waiters.wake("s1")
    waiters.wake("never heard of")
    assert waiters._by_session == {}
