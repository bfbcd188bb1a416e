"""What runs without a task: ended where it waits, and kept by its owner only until it ends."""

import asyncio

import pytest

from node.concurrency.eager_task import EagerTask
from tests.support.wait import until


async def test_it_is_its_owners_while_it_waits() -> None:
    others: set[EagerTask] = set()
    future = asyncio.get_running_loop().create_future()
    errand = EagerTask(asyncio.wait_for(future, None), "x", others)
    assert others == set()
    errand.begin()
    assert others == {errand}
    future.set_result(None)
    await until(lambda: not others, "it is over")


async def test_cancelled_it_ends_where_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    others: set[EagerTask] = set()
    seen: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            seen.append(str(exc))
            raise

    errand = EagerTask(waits(), "x", others)
    errand.cancel()
    errand.begin()
    errand.cancel("enough")
    await until(lambda: not others, "it is over")
    assert seen == ["enough"]
    assert not caplog.records, "no failure"
