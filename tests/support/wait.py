"""Waiting for something to become true, with a deadline that fails loudly."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

import pytest

__all__ = ["PATIENCE_S", "until"]

# Far above what anything here takes: a test that reaches it has found something that never happens.
PATIENCE_S = 30.0
LOOK_EVERY_S = 0.01


async def until(
    condition: Callable[[], object] | Callable[[], Awaitable[object]], what: str, *, patience_s: float = PATIENCE_S
) -> None:
    """Return once `condition()` (or what it awaits) is true. Fails the test, saying `what`, at the deadline."""
    deadline = time.monotonic() + patience_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"not within {patience_s:g} s: {what}")
        await asyncio.sleep(LOOK_EVERY_S)
