"""The simulations of the scaling model: what must come out of them whatever anything costs."""

import pytest

from devtools.scaling.placement import fewest_shards, placed
from devtools.scaling.simulated import placement_table, storm_table
from devtools.scaling.storm import returning
from node.settings import Settings
from tests.unit.devtools.test_scaling import COSTS, ROOMY

TASKS = {"devices": 20_000, "tasks_per_s": 10_000, "nodes": 4}


def test_on_one_shard_lies_all_there_is() -> None:
    one = placed(COSTS, shards=1, **TASKS)
    # Tasks, devices, nodes: 100 µs, 1 µs, 400 µs each, per second.
    assert one.busiest == pytest.approx(1.0 + 0.02 + 0.0016)
    assert list(one.loads) == [one.busiest]
    assert one.tags == 1


def test_more_shards_share_the_same_work() -> None:
    whole = placed(COSTS, shards=1, **TASKS).busiest
    for shards in (2, 3, 16, 100):
        found = placed(COSTS, shards=shards, **TASKS)
        assert found.average * shards == pytest.approx(whole)
        assert found.busiest >= found.average
        # A key of one slot takes a tenth of a task, wherever it lies.
        assert found.busiest > whole * 0.1


def test_shards_are_added_until_the_busiest_has_time_left() -> None:
    shards, found = fewest_shards(COSTS, 0.4, **TASKS)
    assert found.busiest <= 0.4
    assert placed(COSTS, shards=shards - 1, **TASKS).busiest > 0.4


def test_where_one_key_is_too_busy_the_search_ends() -> None:
    _, found = fewest_shards(COSTS, 0.05, **TASKS)
    assert found.busiest > 0.05


def test_a_fleet_that_fits_the_burst_comes_back_at_once() -> None:
    few = returning(Settings(), devices=1500, nodes=2, held=0, arrival_us=100)
    assert few.all_s < 1
    assert few.refusals == 0


def test_a_larger_one_is_let_in_at_the_rate_of_the_nodes() -> None:
    settings = Settings()
    many = returning(settings, devices=10_000, nodes=2, held=0, arrival_us=100)
    assert many.half_s < many.most_s <= many.all_s
    assert many.refusals > 0
    # Nobody can be faster than the doors: what is over both bursts, at both rates.
    over = 10_000 - 2 * settings.connect_burst
    assert many.all_s >= over / (2 * settings.connect_rate_per_s)
    assert many.all_s < 60


def test_a_node_that_is_slower_than_its_door_holds_them_up() -> None:
    quick, slow = (
        returning(Settings(), devices=1000, nodes=1, held=0, arrival_us=us, seed=3).all_s for us in (100, 5_000)
    )
    assert slow >= 5.0 > quick


def test_without_room_there_is_no_coming_back() -> None:
    with pytest.raises(ValueError, match="no room"):
        returning(Settings(), devices=1000, nodes=1, held=19_500, arrival_us=100)


def test_every_size_has_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devtools.scaling.simulated.SIZES", ((1_000, 100), (3_000, 100), (3_000, 1_000)))
    assert placement_table(COSTS, ROOMY).count("\n") == 1 + 3
    assert storm_table(COSTS, ROOMY).count("\n") == 1 + 2 * 2
