"""Large JSON texts: looked through in slices, and parsed one at a time.

A text is parsed by one call that nothing interrupts, in another thread no less than in this one. So what could make
that call long (depth, number of values) is found out before, in slices between which the loop does other things (see
`aip_cluster.protocol.structure`). Texts wait for each other, in order, and after each the loop is left to everybody
else for as long as it was held: however many come at once, an answer to something small waits for one of them at most.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from aip_cluster.protocol.structure import Structure, Text, pieces

__all__ = ["LARGE_BYTES", "Parsing"]

# What is smaller is parsed where it comes, in 10 ms at the worst.
LARGE_BYTES = 256 * 1024

_T = TypeVar("_T")


class Parsing:
    """The large texts of one node."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def parse(self, text: Text, parse: Callable[[Text], _T]) -> _T:
        """What `parse` makes of a text of known structure. Raises TooLarge, and what `parse` raises.

        Cancelling is safe.
        """
        async with self._turn:
            structure = Structure()
            for piece in pieces(text):
                structure.feed(piece)
                await asyncio.sleep(0)
            began = time.perf_counter()
            try:
                return parse(text)
            finally:
                await asyncio.sleep(time.perf_counter() - began)
