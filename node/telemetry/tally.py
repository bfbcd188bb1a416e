"""Counters and histograms for one event loop: an addition each, and no lock.

A task passes about ten of them on each node. The library's take a lock for every number that they change, a histogram
two, since threads may share them; here nobody shares them, and what a scraper reads is made when it asks. They are
used as the library's are, and tell the same: names, labels, buckets, exemplars.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar
from prometheus_client.utils import INF, floatToGoString

__all__ = ["Count", "Counter", "Histogram", "Timing"]

_Child = TypeVar("_Child")


class _ByLabels(Collector, Generic[_Child]):
    """A metric with a child for each combination of labels; one without labels has a single child."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        make: Callable[[], _Child],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._make = make
        self._children: dict[tuple[str, ...], _Child] = {}
        registry.register(self)

    def labels(self, *values: str) -> _Child:
        """The child with these labels, made when it is first asked for."""
        child = self._children.get(values)
        if child is None:
            child = self._children[tuple(map(str, values))] = self._make()
        return child


class Count:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add to it."""
        self.value += amount


class Counter(_ByLabels[Count]):
    """A metric of counts, one for each combination of labels; without labels it is itself one."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, registry: CollectorRegistry
    ) -> None:
        super().__init__(name, documentation, labels, make=Count, registry=registry)
        if not labels:
            self.inc = self.labels().inc

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Its name, for the registry."""
        yield CounterMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """What a scraper reads."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, count in self._children.items():
            family.add_metric(values, count.value)
        yield family


class Timing:
    """How often what was observed fell between two bounds."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * len(bounds)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Note one value, and, with `exemplar`, whose it was."""
        self._counts[place := bisect_left(self._bounds, amount)] += 1
        self._sum += amount
        if exemplar:
            self._exemplars[place] = Exemplar(exemplar, amount, time.time())

    def add_to(self, family: HistogramMetricFamily, values: tuple[str, ...]) -> None:
        """What a scraper reads of it: of each bucket, how many were not above its bound."""
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        so_far = 0
        for place, bound in enumerate(self._bounds):
            so_far += self._counts[place]
            exemplar = self._exemplars.get(place)
            name = floatToGoString(bound)  # type: ignore[no-untyped-call]
            buckets.append((name, so_far) if exemplar is None else (name, so_far, exemplar))
        family.add_metric(values, buckets, self._sum)


class Histogram(_ByLabels[Timing]):
    """A metric of timings, one for each combination of labels; without labels it is itself one."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        bounds = (*map(float, buckets), INF)
        super().__init__(name, documentation, labels, make=partial(Timing, bounds), registry=registry)
        if not labels:
            self.observe = self.labels().observe

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """Its name, for the registry."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What a scraper reads."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, timing in self._children.items():
            timing.add_to(family, values)
        yield family
