"""Waiting for what must come true, up to a deadline.

Deadlines are what the product promises, or generous where it promises nothing; `AIP_TEST_SLACK` multiplies them all
on a machine that is slow.
"""

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

import pytest

__all__ = ["PATIENCE_S", "SLACK", "eventually", "stays", "vanishes"]

SLACK = float(os.environ.get("AIP_TEST_SLACK", "1"))
# Where the product promises nothing: far above what anything takes, also on a machine that is busy with other things.
PATIENCE_S = 30.0
EVERY_S = 0.05

_T = TypeVar("_T")


@overload
async def eventually(check: Callable[[], Awaitable[_T]], what: str, *, within_s: float = PATIENCE_S) -> _T: ...
@overload
async def eventually(check: Callable[[], _T], what: str, *, within_s: float = PATIENCE_S) -> _T: ...
async def eventually(check: Callable[[], object], what: str, *, within_s: float = PATIENCE_S) -> object:
    """The first true value of `check`; fails the test when none came in time."""
    deadline = time.monotonic() + within_s * SLACK
    while True:
        value = await _look(check)
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {within_s:g} s in vain until {what}; last seen: {value!r}")
        await asyncio.sleep(EVERY_S)


async def vanishes(check: Callable[[], object], what: str, *, within_s: float = PATIENCE_S) -> None:
    """Waits until `check` gives nothing (what is given until then is the trouble that a failure shows)."""
    deadline = time.monotonic() + within_s * SLACK
    while trouble := await _look(check):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {within_s:g} s in vain until {what}; still: {trouble!r}")
        await asyncio.sleep(EVERY_S)


async def stays(check: Callable[[], object], what: str, *, for_s: float) -> None:
    """Fails the test if `check` is false at any look within `for_s`."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        value = await _look(check)
        if not value:
            pytest.fail(f"it did not stay so that {what}; seen: {value!r}")
        await asyncio.sleep(EVERY_S)


async def _look(check: Callable[[], object]) -> object:
    seen = check()
    return await seen if inspect.isawaitable(seen) else seen
