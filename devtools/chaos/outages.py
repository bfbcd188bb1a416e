"""How long users were without service: measured on their own requests, and laid at the door of the fault before it.

An outage begins with the request that failed first and ends when a later one was served: what a user who tries again
at once would have waited. Only requests through nginx count: who asks a dead node directly has asked for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from devtools.chaos.injectors import Injected

__all__ = ["Gauge", "Outage", "longest_by_kind"]

# An outage that begins later than this after the end of a fault is not that fault's.
REACH_S = 6.0
UNDER_WAY_S = 0.5
AFTERMATH_S = 2.0


@dataclass(frozen=True, slots=True)
class Outage:
    """A time without service, seconds since the run began."""

    from_s: float
    to_s: float

    @property
    def length_s(self) -> float:
        """How long it was."""
        return self.to_s - self.from_s


@dataclass(slots=True)
class Gauge:
    """Notes requests of one kind as they are answered."""

    name: str
    served: int = 0
    failed: int = 0
    outages: list[Outage] = field(default_factory=list)
    _since_s: float | None = None

    def note(self, began_s: float, ended_s: float, *, served: bool) -> None:
        """A request that was sent at `began_s` and answered, or given up, at `ended_s`."""
        if not served:
            self.failed += 1
            self._since_s = began_s if self._since_s is None else min(self._since_s, began_s)
            return
        self.served += 1
        # Sent before the first that failed, it says nothing about the time after it.
        if self._since_s is not None and began_s >= self._since_s:
            self.outages.append(Outage(self._since_s, ended_s))
            self._since_s = None

    def close(self, at_s: float) -> None:
        """The run is over: what has not ended ends now."""
        if self._since_s is not None:
            self.outages.append(Outage(self._since_s, at_s))
            self._since_s = None


def longest_by_kind(gauges: Iterable[Gauge], faults: Sequence[Injected]) -> dict[str, float]:
    """The longest outage by the kind of fault that most of it fell into, else of the last one before it.

    Faults of devices touch no request.
    """
    touching = [i for i in faults if i.fault.kind.value.partition("-")[0] in {"node", "nginx", "redis"}]
    touching.sort(key=lambda injected: injected.from_s)
    longest: dict[str, float] = {}
    for outage in (outage for gauge in gauges for outage in gauge.outages):
        # A fault that begins while a request is under way makes it fail from its beginning.
        near = [i for i in touching if i.from_s <= outage.from_s + UNDER_WAY_S and outage.from_s <= i.to_s + REACH_S]
        cause = max(near, key=lambda i: (_overlap_s(outage, i), i.from_s), default=None)
        kind = cause.fault.kind.value if cause else "none"
        longest[kind] = max(longest.get(kind, 0.0), outage.length_s)
    return longest


def _overlap_s(outage: Outage, injected: Injected) -> float:
    # The injector waits until Redis is whole again, which users do not notice.
    to_s = min(injected.to_s, injected.from_s + injected.fault.for_s + AFTERMATH_S)
    return max(0.0, min(outage.to_s, to_s) - max(outage.from_s, injected.from_s))
