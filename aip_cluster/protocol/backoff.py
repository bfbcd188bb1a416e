"""How long to wait before trying again: one rule for clients and nodes.

It stands here since this is the one package that all of them import.
"""

import random
from collections.abc import Callable

__all__ = ["Backoff"]

_random = random.SystemRandom().random


class Backoff:
    """Exponential delays with full jitter: anything between 0 and the ceiling, which doubles each time."""

    def __init__(self, base_s: float = 0.5, cap_s: float = 15.0, rng: Callable[[], float] = _random) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._rng = rng
        self._ceiling_s = base_s
        self._least_s = 0.0

    def next_s(self) -> float:
        """The next delay in seconds."""
        if self._least_s:
            # What the server asked for is no failure: the ceiling stays as it was.
            delay_s, self._least_s = self._least_s * (1 + self._rng()), 0.0
            return delay_s
        delay_s = self._rng() * self._ceiling_s
        self._ceiling_s = min(self._cap_s, self._ceiling_s * 2)
        return delay_s

    def at_most(self, ceiling_s: float) -> None:
        """Let the next delay be no longer than `ceiling_s`."""
        self._ceiling_s = min(self._ceiling_s, ceiling_s)

    def at_least(self, least_s: float) -> None:
        """Let the next delay be anything between `least_s` and twice that, and count as no failure."""
        self._least_s = least_s

    def spread(self, spread_s: float) -> None:
        """Start again: the next delay is anything between 0 and `spread_s`."""
        self._ceiling_s = spread_s

    def reset(self) -> None:
        """Start from the base again."""
        self._ceiling_s = self._base_s
