"""Unit costs, from results of `scripts/bench`: of a task, of a device in a second, of a node in a second.

They come from rows `dispatch`, `memory`, `commands`, `storage` and `idle`; a file without one of them is refused.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.bench.report import Report
from lib.outcome import Exit, ScriptError

__all__ = ["Costs", "is_one_slot", "read_costs"]

KB = 1024
WANTED = ("dispatch", "memory", "commands", "storage", "idle")


@dataclass(frozen=True)
class Costs:
    """µs are of one processor. `hot_*` are those parts of Redis's time that fall on keys which live in one slot."""

    node_us_per_task: float
    node_us_per_device_s: float
    node_us_per_node_s: float
    redis_us_per_task: float
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
    hot_us_per_task: Mapping[str, float]
    hot_us_per_node_s: Mapping[str, float]


def is_one_slot(kind: str) -> bool:
    """Whether all keys of the kind are in one slot of a Redis Cluster: no id in it that could spread them.

    A kind is a key without its ids: `aip:sessions` and `aip:{nodes}:leases` are one slot, `aip:session:{}` is not.
    """
    return kind.startswith("aip:") and "{}" not in kind and "{node:}" not in kind and not _is_channel(kind)


def _is_channel(kind: str) -> bool:
    return kind.startswith("aip:node:")


def read_costs(report: Report) -> Costs:
    """The costs. Raises ScriptError if a row is missing."""
    rows = {row.name: row for row in report.rows}
    missing = [name for name in WANTED if name not in rows]
    if missing:
        raise ScriptError(Exit.USAGE, f"the results have no row {', '.join(missing)}: scripts/bench {' '.join(WANTED)}")
    figures = {key: figure.value.median for key, figure in report.figures.items()}
    of_task, rest = rows["commands"].details, rows["idle"].details
    devices = rest["devices"]
    empty, full = statistics.median(rest["other_node_cpu_share"]), statistics.median(rest["node_cpu_share"])
    redis_idle_us = of_task["idle_cpu_us_per_s"]
    redis_full_us = statistics.median(rest["redis_cpu_share"]) * 1e6
    redis_us = figures["commands/cpu"]
    return Costs(
        node_us_per_task=statistics.median(t["server_us"] for t in rows["dispatch"].details["cluster"]),
        node_us_per_device_s=max(0.0, full - empty) * 1e6 / devices,
        node_us_per_node_s=empty * 1e6,
        redis_us_per_task=redis_us,
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
        hot_us_per_task=_hot(of_task["by_key_per_task"], redis_us),
        hot_us_per_node_s=_hot(rest["by_key_per_s"], redis_idle_us / 2),
    )


def _hot(by_key: Mapping[str, Any], total_us: float) -> dict[str, float]:
    """Redis's time by key, as its commands are spread over the keys; those in one slot only."""
    commands = sum(by_key.values())
    return {kind: total_us * n / commands for kind, n in by_key.items() if is_one_slot(kind)} if commands else {}
