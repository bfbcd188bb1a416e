"""The command `scripts/scaling_model`: how many nodes and Redis shards a fleet needs, by what `scripts/bench` measured.

Demand is linear in devices and nodes, and nearly so in tasks, which get cheaper as they come together. Between two
rates at which it was measured, a task costs what the straight line through both says (both axes logarithmic). Beyond
all of them it costs what it costs at the last one. The rate is that of a pair of nodes: a task crosses two.

Two things do not follow from adding machines: a key that is one slot stays on one shard, and retention multiplies the
memory of results. Nothing is assumed that is not either measured or an option of the command.
"""

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from devtools.bench.report import Report, number
from devtools.bench.report import merged as merged_reports
from devtools.bench.rows import Row
from devtools.outcome import Exit, ScriptError, report, say

__all__ = [
    "Assumptions",
    "Costs",
    "Task",
    "carried",
    "demand",
    "is_one_slot",
    "main",
    "plan",
    "read_costs",
    "saturation",
    "tables",
    "task_cost",
]

FAILED = 1
US = 1e6
KB, MB, GB = 2**10, 2**20, 2**30
WANTED = ("dispatch", "memory", "commands", "storage", "idle")
# Devices, and tasks a second.
SIZES = ((1_000, 100), (10_000, 1_000), (100_000, 10_000), (1_000_000, 10_000), (1_000_000, 100_000))
# For how long results are kept, s.
RETENTIONS = ((86_400, "a day"), (3_600, "an hour"), (600, "10 minutes"))
FEWEST_NODES = 2
BISECTIONS = 60
# A key that takes less than this share of a task fills no shard before everything else does.
NEGLIGIBLE = 0.001


# -- what was measured -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Task:
    """A task, in µs of one processor, when two nodes get `per_s` of them a second."""

    per_s: float
    node_us: float
    redis_us: float


@dataclass(frozen=True)
class Costs:
    """µs are of one processor. `tasks`: what a task costs at several rates, from the lowest to full load.

    `hot_*`: what falls on keys which live in one slot, as a share of Redis's time a task, and in µs a node a second.
    """

    tasks: Sequence[Task]
    node_us_per_device_s: float
    node_us_per_node_s: float
    redis_us_per_device_s: float
    redis_us_per_node_s: float
    node_bytes: float
    node_bytes_per_device: float
    redis_bytes_per_device: float
    redis_bytes_per_task: float
    redis_net_bytes_per_task: float
    client_bytes_per_task: float
    client_bytes_per_device_s: float
    hot_share_of_task: Mapping[str, float]
    hot_us_per_node_s: Mapping[str, float]

    @property
    def full(self) -> Task:
        """At full load."""
        return self.tasks[-1]


def read_costs(results: Report) -> Costs:
    """The costs. Raises ScriptError if a row is missing, or was measured by an earlier version that said less."""
    rows = {row.name: row for row in results.rows}
    missing = [name for name in WANTED if name not in rows]
    if missing:
        raise ScriptError(Exit.USAGE, f"the results have no row {', '.join(missing)}: scripts/bench {' '.join(WANTED)}")
    try:
        return _costs(results, rows)
    except KeyError as exc:
        raise ScriptError(Exit.USAGE, f"the results lack {exc}: they are of an earlier version") from None


def _costs(results: Report, rows: Mapping[str, Row]) -> Costs:
    figures = {key: figure.value.median for key, figure in results.figures.items()}
    of_task, rest = rows["commands"].details, rows["idle"].details
    devices = rest["devices"]
    empty, holding = statistics.median(rest["other_node_cpu_share"]), statistics.median(rest["node_cpu_share"])
    redis_idle_us = of_task["idle_cpu_us_per_s"]
    redis_full_us = statistics.median(rest["redis_cpu_share"]) * US
    tries = rows["dispatch"].details["cluster"]
    full = Task(
        statistics.median(t["load"]["completed_per_s"] for t in tries),
        statistics.median(t["server_us"] for t in tries),
        figures["commands/cpu"],
    )
    # Without the lists of clients: devices ask for what is noted there, not nodes.
    of_nodes = {kind: us for kind, us in rest["us_by_key_per_s"].items() if "{node:}" not in kind}
    return Costs(
        tasks=[*(Task(one["per_s"], one["node_us"], one["redis_us"]) for one in of_task["paced"]), full],
        node_us_per_device_s=max(0.0, holding - empty) * US / devices,
        node_us_per_node_s=empty * US,
        redis_us_per_device_s=max(0.0, redis_full_us - redis_idle_us) / devices,
        # The two nodes of an otherwise idle cluster.
        redis_us_per_node_s=redis_idle_us / 2,
        node_bytes=statistics.median(rows["memory"].details["kb_before"]["cluster"]) * KB,
        node_bytes_per_device=figures["memory/device"] * KB,
        redis_bytes_per_device=figures["storage/device"] * KB,
        redis_bytes_per_task=figures["storage/task"] * KB,
        redis_net_bytes_per_task=of_task["redis_in_bytes_per_task"] + of_task["redis_out_bytes_per_task"],
        client_bytes_per_task=of_task["client_bytes_per_task"],
        client_bytes_per_device_s=statistics.median(rest["client_bytes_per_s"]) / devices,
        hot_share_of_task=_hot(of_task["us_by_key_per_task"], 1.0, without=rest["us_by_key_per_s"]),
        hot_us_per_node_s=_hot(of_nodes, redis_idle_us / 2),
    )


def is_one_slot(kind: str) -> bool:
    """Whether all keys of the kind are in one slot of a Redis Cluster: no id in it that could spread them.

    A kind is a key without its ids: `aip:sessions` and `aip:{nodes}:leases` are one slot, `aip:session:{}` is not.
    """
    is_channel = kind.startswith("aip:node:")
    return kind.startswith("aip:") and "{}" not in kind and "{node:}" not in kind and not is_channel


def _hot(by_key: Mapping[str, float], total: float, *, without: Container[str] = ()) -> dict[str, float]:
    """A total by key, as Redis's time is spread over the keys; those in one slot only.

    `without`: keys that are used as much when nothing is asked of the cluster.
    """
    whole = sum(by_key.values())
    return {kind: total * us / whole for kind, us in by_key.items() if is_one_slot(kind) and kind not in without}


# -- the model ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Assumptions:
    """What was not measured: how full a processor may be, and what machines and settings there are.

    A node is one process and uses one processor; so does a Redis server. `connections_per_node` leaves room below the
    setting `max_connections` for the devices of a node that died; `retention_s` is the setting `result_ttl_s`.
    """

    utilisation: float = 0.6
    connections_per_node: int = 15_000
    redis_bytes_per_shard: int = 16 * GB
    retention_s: int = 86_400


@dataclass(frozen=True)
class Demand:
    """What devices and tasks ask for, on so many nodes. Processors are busy seconds per second."""

    node_processors: float
    redis_processors: float
    node_bytes: float
    redis_bytes: float
    redis_net_bytes_s: float
    client_bytes_s: float
    hot: Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """How many of each, and what decides that number. `hot_key` is the busiest key of one slot, `hot` its share of a
    processor: above `Assumptions.utilisation`, no number of shards helps."""

    nodes: int
    nodes_for: str
    shards: int
    shards_for: str
    hot_key: str
    hot: float
    demand: Demand


@dataclass(frozen=True)
class Saturation:
    """Something that is full at so many tasks a second, with two nodes and one Redis, or however many there are."""

    what: str
    tasks_per_s: float
    remedy: str


def task_cost(costs: Costs, per_s: float) -> Task:
    """What a task costs where a pair of nodes gets so many a second."""
    rate = min(max(per_s, costs.tasks[0].per_s), costs.full.per_s)
    low, high = next(pair for pair in itertools.pairwise(costs.tasks) if rate <= pair[1].per_s)
    at = math.log(rate / low.per_s) / math.log(high.per_s / low.per_s) if high.per_s > low.per_s else 1.0

    def between(first: float, last: float) -> float:
        return math.exp(math.log(first) * (1 - at) + math.log(last) * at)

    return Task(per_s, between(low.node_us, high.node_us), between(low.redis_us, high.redis_us))


def demand(costs: Costs, *, devices: float, tasks_per_s: float, nodes: int, retention_s: float) -> Demand:
    """What is needed of everything. `retention_s`: for how long tasks have been kept, at most."""
    task = task_cost(costs, tasks_per_s * 2 / nodes)
    hot = {key: share * task.redis_us * tasks_per_s / US for key, share in costs.hot_share_of_task.items()}
    for key, us in costs.hot_us_per_node_s.items():
        hot[key] = hot.get(key, 0.0) + us * nodes / US
    node_us = task.node_us * tasks_per_s + costs.node_us_per_device_s * devices
    redis_us = task.redis_us * tasks_per_s + costs.redis_us_per_device_s * devices
    return Demand(
        node_processors=(node_us + costs.node_us_per_node_s * nodes) / US,
        redis_processors=(redis_us + costs.redis_us_per_node_s * nodes) / US,
        node_bytes=costs.node_bytes * nodes + costs.node_bytes_per_device * devices,
        redis_bytes=costs.redis_bytes_per_device * devices + costs.redis_bytes_per_task * tasks_per_s * retention_s,
        redis_net_bytes_s=costs.redis_net_bytes_per_task * tasks_per_s,
        client_bytes_s=costs.client_bytes_per_task * tasks_per_s + costs.client_bytes_per_device_s * devices,
        hot=hot,
    )


def plan(costs: Costs, assumed: Assumptions, *, devices: float, tasks_per_s: float) -> Plan:
    """The fewest nodes and shards that carry it. Raises ValueError if a node is full of itself."""
    if costs.node_us_per_node_s / US >= assumed.utilisation:
        raise ValueError("a node has no time left beside its own housekeeping")

    def needed_by(nodes: int) -> Demand:
        return demand(costs, devices=devices, tasks_per_s=tasks_per_s, nodes=nodes, retention_s=assumed.retention_s)

    nodes, nodes_for = _most(
        (FEWEST_NODES, "losing one"), (math.ceil(devices / assumed.connections_per_node), "sockets")
    )
    # One by one: with more nodes a task costs more, since fewer of them meet.
    while needed_by(nodes).node_processors > assumed.utilisation * nodes:
        nodes, nodes_for = nodes + 1, "processors"
    needed = needed_by(nodes)
    shards, shards_for = _most(
        (1, "being there"),
        (math.ceil(needed.redis_processors / assumed.utilisation), "processors"),
        (math.ceil(needed.redis_bytes / assumed.redis_bytes_per_shard), "memory"),
    )
    hot_key, hot = max(needed.hot.items(), key=lambda item: item[1], default=("", 0.0))
    return Plan(nodes, nodes_for, shards, shards_for, hot_key, hot, needed)


def _most(*wanted: tuple[int, str]) -> tuple[int, str]:
    """The largest; of equals the first."""
    return max(wanted, key=lambda one: one[0])


def carried(costs: Costs, of_task: Callable[[Task], float], budget_us: float) -> float:
    """How many tasks a second two nodes may get until what each asks, in µs, is `budget_us` together."""
    low, high = 0.0, budget_us / of_task(costs.full)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if middle * of_task(task_cost(costs, middle)) <= budget_us:
            low = middle
        else:
            high = middle
    return low


def saturation(costs: Costs, assumed: Assumptions) -> list[Saturation]:
    """What is full first, as tasks come more often: two nodes and one Redis to begin with."""
    full = assumed.utilisation * US
    kept = assumed.redis_bytes_per_shard / (costs.redis_bytes_per_task * assumed.retention_s)
    found = [
        Saturation("two nodes' processors", carried(costs, lambda task: task.node_us, 2 * full), "nodes"),
        Saturation("one Redis server's processor", carried(costs, lambda task: task.redis_us, full), "shards"),
        Saturation("one Redis server's memory", kept, "shards, or a shorter `result_ttl_s`"),
    ]
    found += [
        # Whatever fills it comes at its full rate.
        Saturation(f"`{key}`, on whatever shard it is", full / (share * costs.full.redis_us), "a change of the design")
        for key, share in costs.hot_share_of_task.items()
        if share >= NEGLIGIBLE
    ]
    return sorted(found, key=lambda one: one.tasks_per_s)


# -- the command -------------------------------------------------------------------------------------------------------
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parse(argv)
    assumed = Assumptions(options.utilisation, options.connections, int(options.redis_gb * GB), options.retention_s)
    try:
        say(tables(read_costs(merged_reports([Report.read(path) for path in options.results])), assumed))
    except ScriptError as exc:
        return report("scaling_model", exc)
    except ValueError as exc:
        print(f"scaling_model: {exc}", file=sys.stderr)
        return FAILED
    return Exit.OK


def tables(costs: Costs, assumed: Assumptions) -> str:
    """What each size needs, what is full first, and what retention costs, in Markdown."""
    columns = [
        *("devices", "tasks/s", "nodes", "because of", "shards", "because of", "nodes' memory", "Redis's memory"),
        *("clients' traffic", "Redis's traffic", "busiest key of one slot"),
    ]
    kept = ("devices", "tasks/s", *(f"{text}: memory, shards" for _, text in RETENTIONS))
    return "\n".join(
        [
            "## How many of each\n",
            *_table(columns, (_size(costs, assumed, devices, tasks) for devices, tasks in SIZES)),
            "\n## What is full first, with two nodes and one Redis\n",
            *_table(
                ("full", "at tasks/s", "what helps"),
                ((one.what, f"{one.tasks_per_s:,.0f}", one.remedy) for one in saturation(costs, assumed)),
            ),
            "\n## Results, kept for how long\n",
            *_table(kept, (_retention(costs, assumed, devices, tasks) for devices, tasks in SIZES)),
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _size(costs: Costs, assumed: Assumptions, devices: int, tasks: int) -> Sequence[str]:
    one = plan(costs, assumed, devices=devices, tasks_per_s=tasks)
    d = one.demand
    return (
        *(f"{devices:,}", f"{tasks:,}", f"{one.nodes:,}", one.nodes_for, f"{one.shards:,}", one.shards_for),
        *(f"{number(d.node_bytes / GB)} GB", f"{number(d.redis_bytes / GB)} GB"),
        *(f"{number(d.client_bytes_s / MB)} MB/s", f"{number(d.redis_net_bytes_s / MB)} MB/s"),
        f"`{one.hot_key}`: {one.hot:.0%} of a processor{' (too much)' if one.hot > assumed.utilisation else ''}",
    )


def _retention(costs: Costs, assumed: Assumptions, devices: int, tasks: int) -> Sequence[str]:
    plans = [
        plan(costs, replace(assumed, retention_s=seconds), devices=devices, tasks_per_s=tasks)
        for seconds, _ in RETENTIONS
    ]
    memory = (f"{number(one.demand.redis_bytes / GB)} GB, {one.shards:,} for {one.shards_for}" for one in plans)
    return (f"{devices:,}", f"{tasks:,}", *memory)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    default = Assumptions()
    parser = argparse.ArgumentParser(
        prog="scripts/scaling_model",
        description="From results of scripts/bench: how many nodes and Redis shards a fleet needs, and what is full "
        "first.",
    )
    parser.add_argument("results", type=Path, nargs="+", metavar="FILE", help="results.json of scripts/bench --out")
    parser.add_argument(
        "--utilisation", type=float, default=default.utilisation, metavar="SHARE", help="of a processor (default: 0.6)"
    )
    parser.add_argument(
        "--connections", type=int, default=default.connections_per_node, metavar="N", help="sockets a node (15000)"
    )
    parser.add_argument("--redis-gb", type=float, default=16.0, metavar="GB", help="memory of a shard (16)")
    parser.add_argument(
        "--retention-s", type=int, default=default.retention_s, metavar="S", help="result_ttl_s of the nodes (86400)"
    )
    options = parser.parse_args(argv)
    if not 0 < options.utilisation <= 1 or options.connections < 1 or options.redis_gb <= 0 or options.retention_s < 1:
        parser.error("--utilisation: above 0, at most 1; the others: above 0")
    return options
