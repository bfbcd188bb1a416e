"""How long the event loop was held: the bound of the tests in which one caller asks for much.

Time in which the loop could have run, and other processes had the processors, is not counted: Linux says how long that
was (https://docs.kernel.org/scheduler/sched-stats.html), elsewhere it counts.
"""

import asyncio
import time
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["MOST_GAP_S", "LoopWatch"]

# What one caller may make everybody else wait.
MOST_GAP_S = 0.25
BEAT_S = 0.005
# Of this thread: nanoseconds on a processor, nanoseconds of waiting for one, and how often.
SCHEDSTAT = Path("/proc/thread-self/schedstat")


class LoopWatch:
    """A context in which a task beats every 5 ms. `longest_gap_s`: the longest time between two beats."""

    def __init__(self) -> None:
        self.longest_gap_s = 0.0
        self._last_s = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._last_s = _now_s()
        self._task = asyncio.create_task(self._beat(), name="loop-watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        # Whatever holds the loop until now ends with a beat.
        await asyncio.sleep(0)
        self._note()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self._note()

    def _note(self) -> None:
        now = _now_s()
        self.longest_gap_s = max(self.longest_gap_s, now - self._last_s)
        self._last_s = now


def _now_s() -> float:
    """A clock that stands still while this thread waits for a processor."""
    try:
        waited_ns = int(SCHEDSTAT.read_text().split()[1])
    except OSError:
        waited_ns = 0
    return time.perf_counter() - waited_ns / 1e9
