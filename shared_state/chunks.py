"""Long lists, worked off in slices: between two of them the event loop has its turn.

Ten thousand clients with their details, as one piece of work, held everybody else up for an eighth of a second. In
slices nobody waits for longer than one of them takes, which is milliseconds.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

__all__ = ["merged", "slices"]

_T = TypeVar("_T")


async def slices(items: Sequence[_T], size: int) -> AsyncIterator[Sequence[_T]]:
    """`items` in parts of `size`, with a turn of the event loop before each but the first."""
    for start in range(0, len(items), size):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + size]


async def merged(runs: list[list[str]]) -> list[str]:
    """One sorted list of several sorted ones."""
    while len(runs) > 1:
        pairs = [runs[i : i + 2] for i in range(0, len(runs), 2)]
        runs = []
        for pair in pairs:
            # Timsort finds the sorted runs, and does no more than merge them.
            runs.append(sorted(pair[0] + pair[1]) if len(pair) == 2 else pair[0])
            await asyncio.sleep(0)
    return runs[0] if runs else []
