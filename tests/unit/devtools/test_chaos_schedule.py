"""The schedule of `scripts/chaos`: the same seed gives the same faults, and never more at once than is promised."""

from itertools import combinations
from pathlib import Path

import pytest

from devtools.chaos.plan import Plan, RedisKind
from devtools.chaos.schedule import NODE_START_S, Fault, FaultKind, draw, dump, load

CONSTELLATIONS = ("galaxy",)
ON_NODES = {FaultKind.NODE_KILL, FaultKind.NODE_DRAIN, FaultKind.NODE_FREEZE}
DEATHS = {
    FaultKind.NODE_KILL,
    FaultKind.FRONT_RESTART,
    FaultKind.REDIS_RESTART,
    FaultKind.REDIS_FAILOVER,
    FaultKind.REDIS_KILL_PRIMARY,
}
seeds = pytest.mark.parametrize("seed", range(20))


def a_plan(seed: int, *, redis: RedisKind = "sentinel", nodes: int = 3, seconds: float = 120.0) -> Plan:
    return Plan(seconds=seconds, seed=seed, nodes=nodes, devices=12, redis=redis, run_dir=Path("/nowhere"))


def test_the_same_seed_gives_the_same_faults() -> None:
    assert draw(a_plan(7), CONSTELLATIONS) == draw(a_plan(7), CONSTELLATIONS)


def test_another_seed_gives_others() -> None:
    assert draw(a_plan(7), CONSTELLATIONS) != draw(a_plan(8), CONSTELLATIONS)


@seeds
@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_one_node_is_always_left_alone(seed: int, nodes: int) -> None:
    faults = [f for f in draw(a_plan(seed, nodes=nodes), CONSTELLATIONS) if f.kind in ON_NODES]
    for fault in faults:
        # Whoever was killed needs a while to be back.
        back = [f for f in faults if f.at_s <= fault.at_s < f.at_s + f.for_s + (0 if _frozen(f) else NODE_START_S)]
        assert len({f.target for f in back}) < nodes


@seeds
def test_no_two_processes_of_the_cluster_die_together(seed: int) -> None:
    faults = [f for f in draw(a_plan(seed), CONSTELLATIONS) if f.kind in DEATHS]
    for first, second in combinations(faults, 2):
        assert second.at_s >= first.at_s + first.for_s


@seeds
def test_redis_has_one_fault_at_a_time(seed: int) -> None:
    faults = [f for f in draw(a_plan(seed), CONSTELLATIONS) if f.kind.value.startswith("redis")]
    for first, second in combinations(faults, 2):
        assert second.at_s > first.at_s + first.for_s


@seeds
def test_everything_is_over_before_the_load_ends(seed: int) -> None:
    plan = a_plan(seed)
    assert all(f.at_s + f.for_s < plan.seconds for f in draw(plan, CONSTELLATIONS))


def test_a_long_run_sees_every_kind_of_fault() -> None:
    seen = {f.kind for f in draw(a_plan(1), CONSTELLATIONS)}
    assert seen == set(FaultKind)


@seeds
def test_a_redis_that_is_alone_has_nobody_to_fail_over_to(seed: int) -> None:
    kinds = {f.kind for f in draw(a_plan(seed, redis="single"), CONSTELLATIONS)}
    assert not kinds & {FaultKind.REDIS_FAILOVER, FaultKind.REDIS_KILL_PRIMARY}


def test_a_schedule_can_be_written_down_and_replayed() -> None:
    faults = draw(a_plan(3), CONSTELLATIONS)
    assert load(dump(faults)) == faults


@pytest.mark.parametrize("text", ["{", "[1]", '[{"at_s": 1}]', '[{"at_s":1,"kind":"x","target":"y","for_s":0}]'])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        load(text)


def test_a_fault_says_what_it_is() -> None:
    assert "node-kill" in str(Fault(1.0, FaultKind.NODE_KILL, "node-1", 2.0))


def _frozen(fault: Fault) -> bool:
    return fault.kind is FaultKind.NODE_FREEZE
