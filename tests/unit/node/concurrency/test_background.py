"""Background tasks: kept until they end, their failures told, none left after the close."""

import asyncio
import logging

import pytest

from node.concurrency.background import Background
from tests.support.wait import PATIENCE_S, until


async def _fail() -> None:
    raise ValueError("broken")


async def test_a_task_runs_and_is_forgotten() -> None:
    background = Background()
    assert await background.spawn(asyncio.sleep(0, "done"), "x") == "done"
    await until(lambda: len(background) == 0, "the task is forgotten")


async def test_a_failure_is_logged_once_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    background.spawn(_fail(), "breaks")
    other = background.spawn(asyncio.sleep(0, "fine"), "other")
    assert await other == "fine"
    await until(lambda: len(background) == 0, "both are forgotten")
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.getMessage() == "background task failed"
    assert record.exc_info is not None


async def test_a_cancelled_task_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    task = background.spawn(asyncio.sleep(600), "x")
    await asyncio.sleep(0)
    task.cancel()
    await until(lambda: len(background) == 0, "the task is forgotten")
    assert caplog.records == []


async def test_closing_waits_for_what_is_nearly_done() -> None:
    background = Background()
    event = asyncio.Event()
    task = background.spawn(event.wait(), "x")
    asyncio.get_running_loop().call_soon(event.set)
    await background.close(grace_s=PATIENCE_S)
    assert task.result() is True


async def test_closing_ends_what_does_not_end() -> None:
    background = Background()
    tasks = [background.spawn(asyncio.sleep(600), "x") for _ in range(10)]
    async with asyncio.timeout(PATIENCE_S):
        await background.close(grace_s=0.01)
    assert all(task.cancelled() for task in tasks)
    assert len(background) == 0


async def test_closing_with_nothing_to_do_is_fine() -> None:
    background = Background()
    await background.close(grace_s=600)
    await background.close()
