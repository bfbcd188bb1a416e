"""Medians, percentiles and quotients of `scripts/bench`, on figures that can be checked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devtools.bench.stats import Spread, latency, percentile, quotients, spread


def test_a_spread_is_the_median_and_the_ends() -> None:
    assert spread([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0, 3)
    assert spread([4.0, 2.0]).median == 3.0


def test_nothing_measured_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="nothing"):
        spread([])
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)])
def test_a_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    assert percentile(list(range(1, 101)), share) == expected


@given(st.lists(st.integers(0, 10**9), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_value_that_was_measured(values: list[int], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in values
    assert sum(v <= found for v in ordered) >= share * len(ordered)


def test_latency_is_in_microseconds_whatever_the_order() -> None:
    one = latency([3_000, 1_000, 2_000, 4_000])
    assert (one.count, one.p50_us, one.p90_us, one.p99_us, one.max_us) == (4, 2.0, 4.0, 4.0, 4.0)


def test_quotients_are_of_the_same_round() -> None:
    assert quotients([10.0, 30.0], [5.0, 10.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="argument 2"):
        quotients([1.0], [1.0, 2.0])
