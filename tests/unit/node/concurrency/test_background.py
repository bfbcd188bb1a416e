"""Background tasks: kept until they end, their failures told, none left after the close."""

import asyncio
import contextvars
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
    assert record.getMessage() == "a background task failed"
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


async def test_what_is_begun_runs_at_once_and_goes_on_when_what_it_waits_for_is_done() -> None:
    background, steps = Background(), []
    future = asyncio.get_running_loop().create_future()

    async def errand() -> None:
        steps.append("begun")
        steps.append(await future)
        await asyncio.sleep(0)
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0.001))
        steps.append("done")

    background.begin(errand(), "x")
    assert (steps, len(background)) == (["begun"], 1)
    future.set_result("gone on")
    await until(lambda: len(background) == 0, "it is forgotten")
    assert steps == ["begun", "gone on", "done"]


async def test_what_is_begun_has_a_context_of_its_own() -> None:
    background, seen = Background(), []
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")

    async def errand() -> None:
        variable.set("inside")
        await asyncio.sleep(0)
        seen.append(variable.get())

    background.begin(errand(), "x")
    await until(lambda: len(background) == 0, "it is over")
    assert (seen, variable.get()) == (["inside"], "outside")


async def test_failures_of_what_is_begun_are_logged_and_raised_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    future = asyncio.get_running_loop().create_future()

    async def later() -> None:
        await future

    background.begin(_fail(), "at once")
    background.begin(later(), "later")
    future.set_exception(ValueError("broken"))
    await until(lambda: len(background) == 0, "all are forgotten")
    gone = asyncio.get_running_loop().create_future()
    background.begin(asyncio.wait_for(gone, None), "cancelled")
    gone.cancel()
    await until(lambda: len(background) == 0, "it is forgotten")
    failed = [getattr(r, "task", "") for r in caplog.records if r.levelno == logging.ERROR]
    assert failed == ["at once", "later"]


async def test_closing_waits_for_what_was_begun_and_then_ends_it() -> None:
    background, seen = Background(), []
    event = asyncio.Event()

    async def errand(waits_for: asyncio.Event) -> None:
        try:
            await waits_for.wait()
            seen.append("done")
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cancelled")
            raise

    background.begin(errand(event), "nearly done")
    background.begin(errand(asyncio.Event()), "never done")
    asyncio.get_running_loop().call_soon(event.set)
    async with asyncio.timeout(PATIENCE_S):
        await background.close(grace_s=0.05)
    assert sorted(seen) == ["cancelled", "done"]
    assert len(background) == 0
