"""The scaling model: sums that can be checked by hand, on costs that are round numbers."""

from dataclasses import replace

import pytest

from devtools.bench.report import Report
from devtools.bench.rows.base import Row, figure
from devtools.outcome import ScriptError
from devtools.scaling import (
    Assumptions,
    Costs,
    Task,
    carried,
    demand,
    is_one_slot,
    plan,
    read_costs,
    saturation,
    tables,
    task_cost,
)

COSTS = Costs(
    tasks=[Task(10, 500, 100), Task(1000, 500, 100)],
    node_us_per_device_s=10,
    node_us_per_node_s=1_000,
    redis_us_per_device_s=1,
    redis_us_per_node_s=500,
    node_bytes=100e6,
    node_bytes_per_device=30e3,
    redis_bytes_per_device=2e3,
    redis_bytes_per_task=4e3,
    redis_net_bytes_per_task=4e3,
    client_bytes_per_task=1e3,
    client_bytes_per_device_s=20,
    hot_share_of_task={"aip:sessions": 0.1, "aip:events": 0.02},
    hot_us_per_node_s={"aip:{nodes}:leases": 400, "aip:events": 0},
)
ROOMY = Assumptions(utilisation=0.5, connections_per_node=10_000, redis_bytes_per_shard=10**12, retention_s=1000)


def test_demand_is_the_sum_of_its_parts() -> None:
    d = demand(COSTS, devices=1000, tasks_per_s=200, nodes=4, retention_s=10)
    assert d.node_processors == pytest.approx(0.1 + 0.01 + 0.004)
    assert d.redis_processors == pytest.approx(0.02 + 0.001 + 0.002)
    assert d.node_bytes == pytest.approx(400e6 + 30e6)
    assert d.redis_bytes == pytest.approx(2e6 + 4e3 * 200 * 10)
    assert d.redis_net_bytes_s == pytest.approx(8e5)
    assert d.client_bytes_s == pytest.approx(2e5 + 2e4)
    assert d.hot == pytest.approx({"aip:sessions": 0.002, "aip:events": 0.0004, "aip:{nodes}:leases": 0.0016})


SHARING = replace(COSTS, tasks=[Task(10, 4000, 400), Task(1000, 1000, 100)])


@pytest.mark.parametrize(
    ("per_s", "node_us", "redis_us"),
    [(1, 4000, 400), (10, 4000, 400), (100, 2000, 200), (1000, 1000, 100), (9**9, 1000, 100)],
)
def test_a_task_is_cheaper_among_many(per_s: float, node_us: float, redis_us: float) -> None:
    task = task_cost(SHARING, per_s)
    assert task.node_us == pytest.approx(node_us)
    assert task.redis_us == pytest.approx(redis_us)


def test_what_tasks_ask_of_all_nodes_grows_with_them_all_the_same() -> None:
    asked = [
        demand(SHARING, devices=0, tasks_per_s=t, nodes=2, retention_s=0).node_processors for t in range(1, 2000, 50)
    ]
    assert asked == sorted(asked)


def test_what_is_carried_is_just_what_fills_the_budget() -> None:
    rate = carried(SHARING, lambda task: task.node_us, 200_000)
    assert rate == pytest.approx(100)
    assert rate * task_cost(SHARING, rate).node_us == pytest.approx(200_000)


def test_nodes_that_share_less_need_more_of_themselves() -> None:
    many = plan(SHARING, ROOMY, devices=10, tasks_per_s=10_000)
    assert many.nodes > 10_000 * SHARING.full.node_us / 1e6 / ROOMY.utilisation
    assert many.demand.node_processors <= ROOMY.utilisation * many.nodes


def test_a_small_fleet_has_two_nodes_and_one_shard() -> None:
    small = plan(COSTS, ROOMY, devices=10, tasks_per_s=1)
    assert (small.nodes, small.nodes_for, small.shards, small.shards_for) == (2, "losing one", 1, "being there")


def test_processors_decide_where_tasks_are_many() -> None:
    busy = plan(COSTS, ROOMY, devices=1000, tasks_per_s=10_000)
    # 5.01 processors of work at 0.499 a node; 1.0 and a little of Redis at 0.5.
    assert (busy.nodes, busy.nodes_for) == (11, "processors")
    assert (busy.shards, busy.shards_for) == (3, "processors")
    assert busy.demand.node_processors / busy.nodes <= ROOMY.utilisation


def test_sockets_decide_where_devices_are_many() -> None:
    crowd = plan(COSTS, ROOMY, devices=500_000, tasks_per_s=1)
    assert (crowd.nodes, crowd.nodes_for) == (50, "sockets")


def test_memory_decides_where_results_are_kept() -> None:
    kept = plan(COSTS, replace(ROOMY, retention_s=10**6), devices=10, tasks_per_s=1000)
    assert (kept.shards, kept.shards_for) == (5, "memory")


def test_the_busiest_key_is_named_even_if_no_shard_helps() -> None:
    busy = plan(COSTS, ROOMY, devices=1000, tasks_per_s=100_000)
    assert busy.hot_key == "aip:sessions"
    assert busy.hot == pytest.approx(1.0)
    assert "(too much)" in tables(COSTS, ROOMY)


def test_a_node_that_is_full_of_itself_is_no_plan() -> None:
    with pytest.raises(ValueError, match="housekeeping"):
        plan(replace(COSTS, node_us_per_node_s=600_000), ROOMY, devices=1, tasks_per_s=1)


def test_what_is_full_first_comes_first() -> None:
    found = saturation(COSTS, replace(ROOMY, redis_bytes_per_shard=4 * 10**9))
    rates = [one.tasks_per_s for one in found]
    assert rates == sorted(rates)
    assert {one.what: round(one.tasks_per_s) for one in found} == {
        "one Redis server's memory": 1000,
        "two nodes' processors": 2000,
        "one Redis server's processor": 5000,
        "`aip:sessions`, on whatever shard it is": 50_000,
        "`aip:events`, on whatever shard it is": 250_000,
    }


@pytest.mark.parametrize(
    ("kind", "one"),
    [
        ("aip:sessions", True),
        ("aip:events", True),
        ("aip:due", True),
        ("aip:{nodes}:leases", True),
        ("aip:{nodes}:node:*", True),
        ("aip:session:{}", False),
        ("aip:{node:}:clients", False),
        ("aip:node:node-a.12", False),
        ("(no key)", False),
    ],
)
def test_a_key_without_an_id_is_one_slot(kind: str, one: bool) -> None:
    assert is_one_slot(kind) is one


def _results() -> Report:
    def row(name: str, values: dict[str, float], details: dict[str, object]) -> Row:
        return Row(name, [figure(f"{name}/{k}", k, "", [v], better="lower") for k, v in values.items()], details, "")

    task = {
        "idle_cpu_us_per_s": 1000.0,
        "redis_in_bytes_per_task": 3000.0,
        "redis_out_bytes_per_task": 1000.0,
        "client_bytes_per_task": 900.0,
        "paced": [
            {"per_s": 50, "node_us": 2000.0, "redis_us": 400.0},
            {"per_s": 500, "node_us": 900.0, "redis_us": 200.0},
        ],
        "us_by_key_per_task": {
            "aip:session:{}": 29.0,
            "aip:task:{}": 10.0,
            "aip:sessions": 10.0,
            "aip:{nodes}:leases": 1.0,
        },
    }
    tries = [{"server_us": us, "load": {"completed_per_s": us * 3}} for us in (400.0, 600.0)]
    rest = {
        "devices": 1000,
        "node_cpu_share": [0.06],
        "other_node_cpu_share": [0.01],
        "redis_cpu_share": [0.003],
        "client_bytes_per_s": [5000.0],
        "us_by_key_per_s": {"aip:{node:}:clients": 90.0, "aip:{nodes}:leases": 10.0},
    }
    rows = [
        row("dispatch", {"reference": 0.5}, {"cluster": tries}),
        row("memory", {"device": 30.0}, {"kb_before": {"cluster": [90_000.0]}}),
        row("commands", {"sent": 10.0, "cpu": 100.0}, task),
        row("storage", {"device": 2.0, "task": 4.0}, {}),
        row("idle", {"commands": 7.0}, rest),
    ]
    return Report({"processor": "a fast one"}, {}, rows)


def test_costs_are_read_from_results() -> None:
    costs = read_costs(_results())
    assert costs.tasks == [Task(50, 2000, 400), Task(500, 900, 200), Task(1500, 500, 100)]
    between = task_cost(costs, 500)
    assert between.node_us == pytest.approx(900)
    assert between.redis_us == pytest.approx(200)
    assert costs.node_us_per_device_s == pytest.approx(50)
    assert costs.node_us_per_node_s == pytest.approx(10_000)
    assert costs.redis_us_per_device_s == pytest.approx(2)
    assert costs.redis_us_per_node_s == pytest.approx(500)
    assert costs.node_bytes_per_device == 30 * 1024
    assert costs.client_bytes_per_device_s == 5
    assert costs.hot_share_of_task == pytest.approx({"aip:sessions": 0.2})
    assert costs.hot_us_per_node_s == pytest.approx({"aip:{nodes}:leases": 500})


def test_results_without_a_row_are_refused() -> None:
    results = _results()
    results.rows.pop()
    with pytest.raises(ScriptError, match="idle"):
        read_costs(results)


def test_results_of_an_earlier_version_are_refused() -> None:
    results = _results()
    del next(row for row in results.rows if row.name == "commands").details["paced"]
    with pytest.raises(ScriptError, match="paced"):
        read_costs(results)
