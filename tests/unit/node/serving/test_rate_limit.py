"""Token buckets, by a clock of the test's own."""

import pytest

from node.serving.rate_limit import RateLimit, TokenBucket
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _taken(bucket: TokenBucket, tries: int) -> int:
    return sum(bucket.take() for _ in range(tries))


def test_a_full_bucket_gives_its_burst_and_then_its_rate(clock: Clock) -> None:
    bucket = TokenBucket(10, 25, clock=clock)
    assert _taken(bucket, 100) == 25
    clock.pass_s(1)
    assert _taken(bucket, 100) == 10
    clock.pass_s(0.05)
    assert _taken(bucket, 100) == 0, "half a token is none"
    clock.pass_s(0.06)
    assert _taken(bucket, 100) == 1


def test_a_bucket_never_holds_more_than_its_burst(clock: Clock) -> None:
    bucket = TokenBucket(10, 25, clock=clock)
    clock.pass_s(1_000)
    assert _taken(bucket, 100) == 25


def test_a_rate_of_nothing_is_no_limit(clock: Clock) -> None:
    bucket = TokenBucket(0, 1, clock=clock)
    assert _taken(bucket, 10_000) == 10_000
    assert bucket.spend(10_000) == 0
    pace = RateLimit(0, 1, patience_s=0, clock=clock)
    assert pace.charge(1_000_000) == 0
    assert not pace.exhausted


def test_debt_is_paid_at_the_rate(clock: Clock) -> None:
    bucket = TokenBucket(10, 20, clock=clock)
    assert bucket.spend(20) == 0
    assert bucket.spend(5) == pytest.approx(0.5)
    clock.pass_s(0.3)
    assert bucket.spend(0) == pytest.approx(0.2)
    clock.pass_s(0.3)
    assert bucket.spend(0) == 0


def test_who_keeps_to_the_rate_is_never_slowed(clock: Clock) -> None:
    pace = RateLimit(100, 200, patience_s=1, clock=clock)
    for _ in range(1_000):
        assert pace.charge(10) == 0
        clock.pass_s(0.1)
    assert not pace.exhausted


def test_who_is_faster_is_held_to_the_rate(clock: Clock) -> None:
    """Reading as soon as it may, and as much as there is: on the average it is the rate that is read."""
    pace = RateLimit(100, 200, patience_s=1_000, clock=clock)
    started_s, read = clock.now_s, 0
    while read < 2_000:
        read += 50
        clock.pass_s(pace.charge(50))
    assert (2_000 - 200) / (clock.now_s - started_s) == pytest.approx(100, rel=0.05)


def test_who_presses_on_is_exhausted_after_a_while_and_not_before(clock: Clock) -> None:
    pace = RateLimit(100, 200, patience_s=5, clock=clock)
    started_s = clock.now_s
    while not pace.exhausted:
        clock.pass_s(pace.charge(50))
        assert clock.now_s - started_s < 10
    assert clock.now_s - started_s > 5


def test_who_slows_down_in_time_has_all_the_time_again(clock: Clock) -> None:
    pace = RateLimit(100, 200, patience_s=5, clock=clock)
    for _ in range(20):
        for _ in range(10):
            clock.pass_s(pace.charge(50))
            assert not pace.exhausted
        clock.pass_s(3)
