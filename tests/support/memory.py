"""How much memory Python holds while something runs.

By what was allocated and not by the size of the process: a resident size also counts what the tests before left
behind, and the allocator gives that back, or takes more, when it likes.
"""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Held:
    """The most that was held at once of what the block allocated, in bytes; known once the block is left."""

    peak_bytes: int = 0


@contextmanager
def memory_held() -> Iterator[Held]:
    """Follow what is allocated inside the block; what lives already does not count."""
    held = Held()
    tracemalloc.start()
    try:
        yield held
        held.peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
