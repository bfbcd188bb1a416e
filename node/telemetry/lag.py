"""How late the event loop is: what everybody on it waits, on top of their own work.

A timer of the loop's own, no task: it asks to be called after a while and notes by how much it was called later.
"""

import asyncio
import time
from collections.abc import Callable

__all__ = ["LoopLag"]

SAMPLE_EVERY_S = 0.25


class LoopLag:
    """Samples the lag from `start` to `close`, and hands each to `observe`, in seconds."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to sample, in the running loop."""
        self._ask(asyncio.get_running_loop())

    def close(self) -> None:
        """Sample no more. Safe to repeat."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        # uvloop's own time stands still while callbacks run.
        self._timer = loop.call_later(SAMPLE_EVERY_S, self._sample, loop, time.monotonic() + SAMPLE_EVERY_S)

    def _sample(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._observe(max(0.0, time.monotonic() - due))
        self._ask(loop)
