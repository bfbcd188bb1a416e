"""What `scripts/chaos` measures: outages as a user has them, and what a failover may have lost."""

from pathlib import Path

import pytest

from devtools.chaos.injectors import Injected
from devtools.chaos.inspection import complaints_in, known_key
from devtools.chaos.outages import Gauge, Outage, longest_by_kind
from devtools.chaos.replication import FOLLOW_S, Answer, ReplicationLog
from devtools.chaos.schedule import Fault, FaultKind
from shared_state.keys import Keys


# -- outages -----------------------------------------------------------------------------------------------------------
def test_an_outage_lasts_from_the_first_failure_to_the_next_service() -> None:
    gauge = Gauge("reads")
    gauge.note(0.0, 0.1, served=True)
    gauge.note(1.0, 1.5, served=False)
    gauge.note(2.0, 2.5, served=False)
    gauge.note(3.0, 3.1, served=True)
    assert gauge.outages == [Outage(1.0, 3.1)]
    assert (gauge.served, gauge.failed) == (2, 2)


def test_a_request_that_was_sent_before_the_failure_does_not_end_the_outage() -> None:
    gauge = Gauge("reads")
    gauge.note(1.0, 1.2, served=False)
    gauge.note(0.5, 1.3, served=True)
    assert gauge.outages == []
    gauge.close(9.0)
    assert gauge.outages == [Outage(1.0, 9.0)]


def test_an_outage_is_the_fault_s_that_was_the_last_before_it() -> None:
    gauge = Gauge("reads", outages=[Outage(10.0, 12.0), Outage(30.0, 30.5), Outage(90.0, 91.0)])
    faults = [
        Injected(Fault(5.0, FaultKind.NODE_KILL, "node-1", 1.0), 5.0, 6.0),
        Injected(Fault(9.9, FaultKind.REDIS_PAUSE, "redis", 2.0), 9.9, 11.9),
        Injected(Fault(9.95, FaultKind.DEVICE_CUT, "light-1", 0.0), 9.95, 9.95),
        Injected(Fault(29.0, FaultKind.REDIS_PAUSE, "redis", 2.0), 29.0, 31.0),
    ]
    assert longest_by_kind([gauge], faults) == {"redis-pause": 2.0, "none": 1.0}


# -- failovers ---------------------------------------------------------------------------------------------------------
def primary(at_s: float, offset: int = 0) -> Answer:
    return Answer(at_s, "", offset)


def replica(at_s: float, offset: int = 0, leader: str = "a") -> Answer:
    return Answer(at_s, leader, offset)


def test_without_a_promotion_nothing_is_lost() -> None:
    log = ReplicationLog()
    for at_s in (1.0, 1.1, 1.2):
        log.take("a", primary(at_s))
        log.take("b", replica(at_s))
    assert log.loss_windows() == []


def test_the_lag_is_how_long_ago_the_primary_was_where_the_replica_is() -> None:
    log = ReplicationLog()
    for at_s, offset in ((1.0, 10), (1.1, 20), (1.2, 30)):
        log.take("a", primary(at_s, offset))
    log.take("b", replica(1.3, 15))
    assert log.largest_lag_s == pytest.approx(0.2)


def test_a_promotion_may_have_been_at_any_time_since_the_replica_said_that_it_was_one() -> None:
    """Sentinel cuts the connections of whom it promotes: who asks hears of it a moment later."""
    log = ReplicationLog()
    log.take("a", primary(1.0))
    log.take("b", replica(1.0))
    for at_s in (1.1, 1.2, 1.3, 1.4):
        log.take("a", primary(at_s))
    log.take("b", primary(1.45))
    log.take("a", replica(1.5, leader="b"))
    assert any(window.from_s <= 1.05 and window.to_s >= 1.4 for window in log.loss_windows())


def test_a_crash_loses_what_the_primary_said_last() -> None:
    log = ReplicationLog()
    for at_s in (1.0, 1.1):
        log.take("a", primary(at_s))
        log.take("b", replica(at_s))
    log.take("b", primary(3.0))
    (window,) = log.loss_windows()
    assert 0.9 < window.from_s < 1.1
    assert 3.0 < window.to_s < 3.2


def test_a_primary_that_does_not_know_of_its_successor_loses_what_it_takes() -> None:
    log = ReplicationLog()
    log.take("a", primary(1.0))
    log.take("b", replica(1.0))
    log.take("b", primary(1.2))
    for at_s in (1.1, 1.4, 1.8):
        log.take("a", primary(at_s))
    log.take("a", replica(2.0, leader="b"))
    _, unknowing = log.loss_windows()
    assert unknowing.from_s == pytest.approx(1.0)
    assert 1.8 <= unknowing.to_s < 2.0


def test_who_follows_the_old_primary_for_too_long_has_no_excuse() -> None:
    log = ReplicationLog()
    log.take("a", primary(1.0))
    log.take("b", replica(1.0))
    log.take("b", primary(1.2))
    for tenth in range(11, 120):
        log.take("a", primary(tenth / 10))
    assert max(window.to_s for window in log.loss_windows()) < 1.2 + FOLLOW_S + 0.2


def test_a_primary_that_comes_back_and_is_promoted_again_rules_rightfully() -> None:
    log = ReplicationLog()
    log.take("a", primary(1.0))
    log.take("b", replica(1.0))
    log.take("b", primary(1.2))
    log.take("a", replica(2.0, leader="b"))
    log.take("a", primary(9.0))
    log.take("a", primary(9.5))
    assert [w.why for w in log.loss_windows()] == ["b took over from a", "a took over from b"]


def test_a_primary_that_was_silent_while_it_was_replaced_may_have_answered_others_first() -> None:
    log = ReplicationLog()
    log.take("a", primary(1.0))
    log.take("b", replica(1.0))
    log.silent("a", 2.9)
    log.take("b", primary(2.0))
    log.take("a", primary(3.2))
    assert any(w.from_s == pytest.approx(2.9) for w in log.loss_windows())


def test_a_server_that_led_for_a_moment_and_was_passed_over_loses_all_that_it_took() -> None:
    log = ReplicationLog()
    log.take("a", primary(1.0))
    log.take("b", replica(1.0))
    log.take("c", replica(1.0))
    log.take("b", primary(2.0))
    log.take("b", primary(2.5))
    log.take("c", primary(2.5))
    log.take("b", primary(3.0))
    passed_over = [w for w in log.loss_windows() if w.why == "b was passed over"]
    assert [(round(w.from_s, 2), round(w.to_s, 1)) for w in passed_over] == [(1.95, 3.1)]


def test_in_a_cluster_other_primaries_are_rightful() -> None:
    log = ReplicationLog(one_leader=False)
    log.take("a", primary(1.0))
    log.take("x", primary(1.0))
    log.take("b", replica(1.0))
    log.take("b", primary(1.1))
    log.take("x", primary(1.2))
    assert {w.why for w in log.loss_windows()} == {"b took over from a"}


# -- keys and logs -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "key", [Keys().inbox("light-1"), Keys().session("s-1"), Keys().session_chunk("s-1", "t", 3), Keys().sessions()]
)
def test_keys_of_the_cluster_are_known(key: str) -> None:
    assert known_key(key)


@pytest.mark.parametrize("key", ["aip:stranger", "aip:client:{x", "aip:client:{x}", "other:client:{x}", ""])
def test_other_keys_are_not(key: str) -> None:
    assert not known_key(key)


def test_errors_and_tracebacks_are_complaints_and_a_line_cut_by_a_kill_is_none(tmp_path: Path) -> None:
    log = tmp_path / "node-1.1.log"
    log.write_text(
        "2026-01-01T00:00:00Z INFO    node: well\n"
        "2026-01-01T00:00:00Z WARNING node: Redis is away\n"
        "2026-01-01T00:00:00Z ERROR   node: broken\n"
        "Traceback (most recent call last):\n"
        "2026-01-01 00:00:00,123 INFO clients: well\n"
        "2026-01-01T00:00:00Z ERR",
        encoding="utf-8",
    )
    assert [c.line.split()[-1] for c in complaints_in(log)] == ["broken", "last):"]
    assert complaints_in(tmp_path / "none.log") == []
