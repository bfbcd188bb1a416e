"""The processes that are measured: kept to their processors, and asked of the kernel what they used. Linux only."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Usage", "parse_cpus", "pin", "usage"]


@dataclass(frozen=True)
class Usage:
    """Seconds of processor time, in the program and in the kernel for it."""

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        """Both."""
        return self.user_s + self.system_s

    def __sub__(self, earlier: "Usage") -> "Usage":
        return Usage(self.user_s - earlier.user_s, self.system_s - earlier.system_s)


def usage(pid: int) -> Usage:
    """What the process has used so far, in steps of a clock tick (10 ms)."""
    times = psutil.Process(pid).cpu_times()
    return Usage(times.user, times.system)


def pin(pid: int, cpus: Iterable[int]) -> None:
    """Keep every thread of the process, and those that it will start, to `cpus`, as far as the machine has them."""
    allowed = set(cpus) & set(range(os.cpu_count() or 1))
    if not allowed:
        return
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), allowed)


def parse_cpus(text: str) -> tuple[int, ...]:
    """`0-2,5` → 0, 1, 2, 5. Raises ValueError."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        named = range(int(first), int(last if dash else first) + 1)
        if not named:
            raise ValueError(f"{part} names no processor")
        cpus |= set(named)
    return tuple(sorted(cpus))
