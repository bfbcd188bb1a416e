"""How much memory Python holds while something runs.

By what was allocated and not by the size of the process: a resident size also counts what the tests before left
behind, and the allocator gives that back, or takes more, when it likes.
"""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


class Held:
    """What was allocated since the block was entered and is still held, in bytes."""

    def __init__(self) -> None:
        self._before = tracemalloc.get_traced_memory()[0]

    @property
    def peak(self) -> int:
        """The most that was held at once."""
        return tracemalloc.get_traced_memory()[1] - self._before


@contextmanager
def memory_held() -> Iterator[Held]:
    """Follow what is allocated inside the block; what lives already does not count."""
    tracemalloc.start()
    try:
        yield Held()
    finally:
        tracemalloc.stop()
