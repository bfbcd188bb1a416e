"""Unit costs, from results of `scripts/bench`: of a task, of a registration, of a device and of a node in a second.

They come from rows `dispatch`, `memory`, `arrival`, `commands`, `storage` and `idle`; a file without one is refused.
"""

import statistics
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from devtools.bench.report import Report
from devtools.bench.rows import Row
from devtools.outcome import Exit, ScriptError

__all__ = ["Costs", "Task", "is_one_slot", "read_costs"]

KB = 1024
WANTED = ("dispatch", "memory", "arrival", "commands", "storage", "idle")


@dataclass(frozen=True)
class Task:
    """A task, in µs of one processor, when two nodes get so many of them a second.

    The more there are the less each costs: those that come together share pipelines and turns of the event loop.
    """

    per_s: float
    node_us: float
    redis_us: float


@dataclass(frozen=True)
class Costs:
    """µs are of one processor. `tasks`: what a task costs at several rates, from the lowest to full load.

    `hot_*`: what falls on keys which live in one slot, as a share of Redis's time a task, and in µs a node a second.
    `name_share_of_task`: what falls on keys of tasks' names, which lie elsewhere than their devices.
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
    commands_per_task: float
    node_us_per_arrival: float
    redis_us_per_arrival: float
    client_bytes_per_arrival: float
    heartbeat_s: float
    name_share_of_task: float
    hot_share_of_task: Mapping[str, float]
    hot_us_per_node_s: Mapping[str, float]

    @property
    def full(self) -> Task:
        """At full load."""
        return self.tasks[-1]


def is_one_slot(kind: str) -> bool:
    """Whether all keys of the kind are in one slot of a Redis Cluster: no id in it that could spread them.

    A kind is a key without its ids: `aip:sessions` and `aip:{nodes}:leases` are one slot, `aip:session:{}` is not.
    """
    return kind.startswith("aip:") and "{}" not in kind and "{node:}" not in kind and not _is_channel(kind)


def _is_channel(kind: str) -> bool:
    return kind.startswith("aip:node:")


def read_costs(report: Report) -> Costs:
    """The costs. Raises ScriptError if a row is missing, or was measured when it said less."""
    rows = {row.name: row for row in report.rows}
    missing = [name for name in WANTED if name not in rows]
    if missing:
        raise ScriptError(Exit.USAGE, f"the results have no row {', '.join(missing)}: scripts/bench {' '.join(WANTED)}")
    try:
        return _costs(report, rows)
    except KeyError as exc:
        raise ScriptError(Exit.USAGE, f"the results lack {exc}: they are of an earlier version") from None


def _costs(report: Report, rows: Mapping[str, Row]) -> Costs:
    figures = {key: figure.value.median for key, figure in report.figures.items()}
    of_task, rest = rows["commands"].details, rows["idle"].details
    devices = rest["devices"]
    empty, holding = statistics.median(rest["other_node_cpu_share"]), statistics.median(rest["node_cpu_share"])
    redis_idle_us = of_task["idle_cpu_us_per_s"]
    redis_full_us = statistics.median(rest["redis_cpu_share"]) * 1e6
    tries = rows["dispatch"].details["cluster"]
    arrivals = rows["arrival"].details["of_each"]["cluster"]
    by_key = of_task["us_by_key_per_task"]
    full = Task(
        statistics.median(t["load"]["completed_per_s"] for t in tries),
        statistics.median(t["server_us"] for t in tries),
        figures["commands/cpu"],
    )
    return Costs(
        tasks=[*(Task(one["per_s"], one["node_us"], one["redis_us"]) for one in of_task["paced"]), full],
        node_us_per_device_s=max(0.0, holding - empty) * 1e6 / devices,
        node_us_per_node_s=empty * 1e6,
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
        commands_per_task=figures["commands/sent"],
        node_us_per_arrival=statistics.median(one["node_us"] for one in arrivals),
        redis_us_per_arrival=statistics.median(one["redis_us"] for one in arrivals),
        client_bytes_per_arrival=statistics.median(one["client_bytes"] for one in arrivals),
        heartbeat_s=rest["heartbeat_s"],
        name_share_of_task=by_key.get("aip:task:{}", 0.0) / sum(by_key.values()),
        hot_share_of_task=_hot(by_key, 1.0, without=rest["us_by_key_per_s"]),
        hot_us_per_node_s=_hot(_of_nodes(rest["us_by_key_per_s"]), redis_idle_us / 2),
    )


def _of_nodes(by_key: Mapping[str, float]) -> dict[str, float]:
    """Without the lists of clients: what is noted there is asked for by devices, not by nodes."""
    return {kind: n for kind, n in by_key.items() if "{node:}" not in kind}


def _hot(by_key: Mapping[str, float], total: float, *, without: Container[str] = ()) -> dict[str, float]:
    """A total by key, as Redis's time is spread over the keys; those in one slot only.

    `without`: keys that are used as much when nothing is asked of the cluster.
    """
    whole = sum(by_key.values())
    return {kind: total * n / whole for kind, n in by_key.items() if is_one_slot(kind) and kind not in without}
