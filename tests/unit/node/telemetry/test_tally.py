"""Our counters and histograms: told to a scraper as the library's own are."""

import prometheus_client as library
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

# Importing it leaves out when each began, for the whole process.
import node.telemetry.metrics  # noqa: F401
from node.telemetry.tally import Counter, Histogram

BUCKETS = (0.001, 0.5, 1, 10)


def _told(counter: type, histogram: type) -> CollectorRegistry:
    r = CollectorRegistry()
    plain = counter("a_plain", "One number", registry=r)
    plain.inc()
    plain.inc(41)
    by_kind = counter("a_kinds", "By kind", ["kind", "way"], registry=r)
    by_kind.labels("x", "in").inc()
    by_kind.labels("y", "out")
    by_kind.labels("x", "in").inc(2)
    times = histogram("b_seconds", "Times", buckets=BUCKETS, registry=r)
    for seconds in (0, 0.001, 0.0011, 1, 3, 10.5, 1e9):
        times.observe(seconds)
    by_state = histogram("b_states_seconds", "By state", ["state"], buckets=BUCKETS, registry=r)
    by_state.labels("done").observe(0.25, None)
    by_state.labels("never")
    return r


def test_a_scraper_reads_what_the_library_would_have_told() -> None:
    ours, theirs = _told(Counter, Histogram), _told(library.Counter, library.Histogram)
    assert generate_latest(ours) == generate_latest(theirs)
    assert openmetrics(ours) == openmetrics(theirs)  # type: ignore[no-untyped-call]


def test_an_exemplar_stays_with_its_bucket() -> None:
    r = CollectorRegistry()
    times = Histogram("a_seconds", "Times", buckets=BUCKETS, registry=r)
    times.observe(0.25, {"trace_id": "first"})
    times.observe(0.3, {"trace_id": "last"})
    times.observe(0.0001)
    told: bytes = openmetrics(r)  # type: ignore[no-untyped-call]
    line = next(x for x in told.decode().splitlines() if "trace_id" in x)
    assert line.startswith('a_seconds_bucket{le="0.5"} 3.0 # {trace_id="last"} 0.3 ')


def test_a_name_is_taken_once() -> None:
    r = CollectorRegistry()
    Counter("a_plain", "One number", registry=r)
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("a_plain", "Another", registry=r)
