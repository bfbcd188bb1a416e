"""Token buckets: how much of something may happen, on the average and at once.

`TokenBucket` refuses what is too much; `RateLimit` slows it, and says when somebody has needed slowing for too long.
Both live in one event loop, wait for nothing themselves, and read a monotonic clock that tests may replace. A rate of 0
switches them off.
"""

import time
from collections.abc import Callable

__all__ = ["Clock", "RateLimit", "TokenBucket"]

Clock = Callable[[], float]

# Shorter pauses cost more than what they hold off.
LEAST_PAUSE_S = 0.05
# So full a bucket says that its owner has slowed down by itself.
RECOVERED = 0.1


class TokenBucket:
    """Fills at `rate_per_s` up to `burst`. Full at first."""

    __slots__ = ("_at", "_clock", "_level", "burst", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: float, *, clock: Clock = time.monotonic) -> None:
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._clock = clock
        self._level = float(burst)
        self._at = clock()

    @property
    def level(self) -> float:
        """Tokens that are there; below 0 is debt."""
        now = self._clock()
        self._level = min(self.burst, self._level + (now - self._at) * self.rate_per_s)
        self._at = now
        return self._level

    def take(self) -> bool:
        """Take a token, if one is there."""
        if self.rate_per_s <= 0:
            return True
        if self.level < 1:
            return False
        self._level -= 1
        return True

    def spend(self, count: int) -> float:
        """Take `count` tokens, there or not. Returns the seconds until the debt is paid, 0 if there is none."""
        if self.rate_per_s <= 0:
            return 0.0
        self._level = self.level - count
        return max(0.0, -self._level / self.rate_per_s)


class RateLimit:
    """How fast one peer may go. Over its rate it is to be slowed; if it presses on for `patience_s`, to be closed.

    Over its rate of bytes it is only slowed: whoever has much to say says it as fast as it is read.
    """

    __slots__ = ("_bucket", "_bytes", "_bytes_burst", "_bytes_per_s", "_clock", "_patience_s", "_pressing_since")

    def __init__(
        self,
        rate_per_s: float,
        burst: float,
        *,
        patience_s: float,
        bytes_per_s: float = 0.0,
        bytes_burst: float = 0.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._bucket = TokenBucket(rate_per_s, burst, clock=clock)
        # Most peers never say so much.
        self._bytes: TokenBucket | None = None
        self._bytes_per_s = bytes_per_s
        self._bytes_burst = bytes_burst
        self._patience_s = patience_s
        self._clock = clock
        self._pressing_since: float | None = None

    def charge(self, count: int) -> float:
        """Count what came. Returns for how many seconds nothing more may be read."""
        if self._pressing_since is not None and self._bucket.level >= self._bucket.burst * RECOVERED:
            self._pressing_since = None
        pause_s = self._bucket.spend(count)
        if pause_s > 0 and self._pressing_since is None:
            self._pressing_since = self._clock()
        return max(pause_s, LEAST_PAUSE_S) if pause_s > 0 else 0.0

    def charge_bytes(self, count: int) -> float:
        """Count bytes that came, as many as are worth it. Returns for how many seconds nothing more may be read."""
        if self._bytes is None:
            self._bytes = TokenBucket(self._bytes_per_s, self._bytes_burst, clock=self._clock)
        pause_s = self._bytes.spend(count)
        return max(pause_s, LEAST_PAUSE_S) if pause_s > 0 else 0.0

    @property
    def exhausted(self) -> bool:
        """Whether the peer has been over its rate for longer than it may."""
        return self._pressing_since is not None and self._clock() - self._pressing_since > self._patience_s
