"""What is begun at once, and gone on with only where it has to wait."""

import asyncio

import pytest

from node.concurrency.eager import begin


async def _at_once() -> str:
    return "done"


async def test_what_need_not_wait_is_over_at_once() -> None:
    assert begin(_at_once()) == ("done", None)


async def test_what_has_to_wait_is_gone_on_with() -> None:
    opened, steps = asyncio.Event(), []

    async def waits() -> str:
        steps.append("begun")
        await opened.wait()
        steps.append("opened")
        await asyncio.sleep(0)
        return "done"

    result, begun = begin(waits())
    assert (result, steps) == (None, ["begun"])
    assert begun is not None
    asyncio.get_running_loop().call_soon(opened.set)
    assert await begun == "done"
    assert steps == ["begun", "opened"]


async def test_what_goes_wrong_at_once_is_raised_at_once() -> None:
    async def breaks() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        begin(breaks())


async def test_what_goes_wrong_later_is_raised_where_it_is_awaited() -> None:
    async def breaks() -> None:
        await asyncio.sleep(0)
        raise OSError("gone")

    _, begun = begin(breaks())
    assert begun is not None
    with pytest.raises(OSError, match="gone"):
        await begun


async def test_a_cancellation_reaches_what_was_begun() -> None:
    seen: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    _, begun = begin(waits())
    assert begun is not None

    async def goes_on() -> None:
        await begun

    task = asyncio.create_task(goes_on())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]
