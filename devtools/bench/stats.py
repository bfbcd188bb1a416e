"""Arithmetic on measurements: medians with their spread, percentiles, quotients of the same round.

Nothing here knows what was measured. An empty list is a mistake of the caller: ValueError.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Latency", "Spread", "latency", "percentile", "quotients", "spread"]


@dataclass(frozen=True)
class Spread:
    """The median of several rounds, and the lowest and the highest of them."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Latency:
    """How long something took, in microseconds."""

    count: int
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest."""
    if not values:
        raise ValueError("nothing was measured")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered values that `share` (0 to 1) of them do not exceed (nearest rank)."""
    if not ordered:
        raise ValueError("nothing was measured")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latency(nanoseconds: Sequence[int]) -> Latency:
    """The percentiles of durations given in nanoseconds."""
    ordered = sorted(nanoseconds)
    shares = [percentile(ordered, share) / 1000 for share in (0.5, 0.9, 0.99, 1.0)]
    return Latency(len(ordered), *shares)


def quotients(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours divided by theirs, round by round: what slows a whole round down cancels out."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]
