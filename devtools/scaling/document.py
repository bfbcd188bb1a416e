"""`docs/SCALING.md`, from measured costs and the model; a figure that nobody measured is named as an assumption."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from devtools.bench.document import KEPT, written_by_hand
from devtools.bench.report import Report, number
from devtools.scaling.check import HEARTBEAT_S, ON_SHARDS, POINTS, Compared, Shard
from devtools.scaling.costs import Costs
from devtools.scaling.model import Assumptions, Plan, plan, saturation
from devtools.scaling.simulated import PLACEMENT, STORM, placement_table, storm_table
from devtools.scaling.sizes import GB, MB, SIZES

__all__ = ["comparison", "scaling", "shards_table", "sizes_table", "write_scaling"]

# For how long results are kept, s.
RETENTIONS = ((86_400, "a day"), (3_600, "an hour"), (600, "10 minutes"))
COLUMNS = (
    *("devices", "tasks/s", "nodes", "because of", "shards", "because of", "nodes' memory", "Redis's memory"),
    *("clients' traffic", "Redis's traffic", "busiest key of one slot"),
)
NAMES: Mapping[str, tuple[str, str]] = {
    "node_us_per_device_s": ("a node's processor, a device a second (ping, pong, heartbeat)", "µs"),
    "node_us_per_node_s": ("a node's processor, its own housekeeping, a second", "µs"),
    "redis_us_per_device_s": ("Redis's processor, a device a second", "µs"),
    "redis_us_per_node_s": ("Redis's processor, a node a second", "µs"),
    "node_bytes": ("a node's memory, empty", "bytes"),
    "node_bytes_per_device": ("a node's memory, a device", "bytes"),
    "redis_bytes_per_device": ("Redis's memory, a device", "bytes"),
    "redis_bytes_per_task": ("Redis's memory, a finished task with a small result", "bytes"),
    "redis_net_bytes_per_task": ("traffic of Redis, a task", "bytes"),
    "client_bytes_per_task": ("traffic of clients, a task (REST and socket)", "bytes"),
    "client_bytes_per_device_s": ("traffic of clients, a device a second", "bytes"),
    "commands_per_task": ("commands to Redis, a task", ""),
    "node_us_per_arrival": ("a node's processor, a device that connects and registers", "µs"),
    "redis_us_per_arrival": ("Redis's processor, the same", "µs"),
    "client_bytes_per_arrival": ("traffic of clients, the same", "bytes"),
}
INTRODUCTION = """# Scaling

Written by `scripts/scaling_model` from the results of `scripts/bench`; repeat it with

```console
$ scripts/bench --out .run/bench
$ scripts/scaling_model .run/bench/results.json --check --document
```

Devices and nodes cost what each costs at small sizes. A task costs less the more there are, since those that come
together share pipelines and turns of the event loop: its cost was measured at several paces and at full load, and
lies on the lines between them (logarithmic axes). `--check` compares all of that with runs at sizes that were not
calibrated. Where keys lie, and how a fleet comes back, is simulated with the cluster's own code. Below the tables
stands [what follows from them](#what-follows).
"""
CHECKED = f"""One run each, {min(p.seconds for p in POINTS):g} to {max(p.seconds for p in POINTS):g} seconds. With two
nodes the sockets are on one and REST on the other, with more both are on all; every device says every {HEARTBEAT_S} s
that it is alive.
"""
ON_CLUSTER = f"""A Redis Cluster of three primaries with a replica each, {ON_SHARDS.devices} devices and
{ON_SHARDS.tasks_per_s:g} tasks/s for {ON_SHARDS.seconds:g} s, less what it uses at rest. Each primary's part:
"""


def write_scaling(path: Path, text: str) -> None:
    """Write the document; what people wrote below the line is kept."""
    kept = written_by_hand(path)
    path.write_text(f"{text}\n{KEPT}\n{kept}", encoding="utf-8")


def scaling(
    report: Report, costs: Costs, assumed: Assumptions, compared: Sequence[Compared], shards: Sequence[Shard]
) -> str:
    """The document in Markdown, but for what people wrote."""
    rows = sorted({f"{row.when} at {row.commit}" for row in report.rows if row.when})
    machine = ", ".join(f"{name} {report.machine.get(name)}" for name in ("processor", "python", "redis-server"))
    parts = [
        INTRODUCTION,
        f"## Costs, as measured\n\nOn {machine}, measured {' and '.join(rows) or report.machine.get('when')}.\n",
        _costs(costs),
        "",
    ]
    parts += ["## How many of each\n", _assumptions(assumed), sizes_table(costs, assumed), ""]
    parts += ["## What is full first\n", "With two nodes and one Redis, as tasks come more often:\n"]
    parts += [_saturation(costs, assumed), "", "## Results, kept for how long\n", _retention(costs, assumed), ""]
    parts += ["## Where keys lie\n", _hot(costs), "", PLACEMENT, placement_table(costs, assumed), ""]
    parts += ["## A fleet that comes back\n", STORM, storm_table(costs, assumed), ""]
    if compared:
        parts += ["## Predicted and measured\n", CHECKED, comparison(compared), ""]
    if shards:
        parts += [ON_CLUSTER, shards_table(shards), ""]
    return "\n".join(parts)


def _costs(costs: Costs) -> str:
    lines = ["| what | costs |", "|---|---|"]
    for task in costs.tasks:
        rate = f"a task, {task.per_s:,.0f} a second"
        lines.append(f"| nodes' processors (both that it crosses), {rate} | {number(task.node_us)} µs |")
        lines.append(f"| Redis's processor, {rate} | {number(task.redis_us)} µs |")
    lines += [f"| {text} | {number(getattr(costs, name))} {unit} |" for name, (text, unit) in NAMES.items()]
    # Of a device's time the heartbeat is what it asks for itself; the pings beside it are the node's.
    beat = f"a heartbeat every {costs.heartbeat_s:g} s, with the pings of that time"
    lines.append(f"| a node's processor, {beat} | {number(costs.node_us_per_device_s * costs.heartbeat_s)} µs |")
    lines.append(f"| Redis's processor, {beat} | {number(costs.redis_us_per_device_s * costs.heartbeat_s)} µs |")
    return "\n".join(lines)


def _assumptions(assumed: Assumptions) -> str:
    return (
        f"Assumed: processors are used to {assumed.utilisation:.0%}; a node is one process on one processor and holds "
        f"{assumed.connections_per_node:,} sockets, so that others have room for those of one that dies; a Redis "
        f"server uses one processor and {assumed.redis_bytes_per_shard / GB:g} GB; results are kept for "
        f"{assumed.retention_s:,} s. Replicas of Redis, and what is asked for by others, come on top.\n"
    )


def sizes_table(costs: Costs, assumed: Assumptions) -> str:
    """What each size needs, in Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for devices, tasks in SIZES:
        lines.append(_size(devices, tasks, plan(costs, assumed, devices=devices, tasks_per_s=tasks), assumed))
    return "\n".join(lines)


def _size(devices: int, tasks: int, one: Plan, assumed: Assumptions) -> str:
    d = one.demand
    hot = f"`{one.hot_key}`: {one.hot:.0%} of a processor{' (too much)' if one.hot > assumed.utilisation else ''}"
    cells = [
        *(f"{devices:,}", f"{tasks:,}", f"{one.nodes:,}", one.nodes_for, f"{one.shards:,}", one.shards_for),
        *(f"{number(d.node_bytes / GB)} GB", f"{number(d.redis_bytes / GB)} GB"),
        *(f"{number(d.client_bytes_s / MB)} MB/s", f"{number(d.redis_net_bytes_s / MB)} MB/s", hot),
    ]
    return f"| {' | '.join(cells)} |"


def _saturation(costs: Costs, assumed: Assumptions) -> str:
    lines = ["| full | at tasks/s | what helps |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {s.what} | {s.tasks_per_s:,.0f} | {s.remedy} |" for s in saturation(costs, assumed))]
    )


def _retention(costs: Costs, assumed: Assumptions) -> str:
    """Redis's memory by how long results are kept."""
    head = ["devices", "tasks/s", *(f"{text}: memory, shards" for _, text in RETENTIONS)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for devices, tasks in SIZES:
        cells = [f"{devices:,}", f"{tasks:,}"]
        for seconds, _ in RETENTIONS:
            one = plan(costs, replace(assumed, retention_s=seconds), devices=devices, tasks_per_s=tasks)
            cells.append(f"{number(one.demand.redis_bytes / GB)} GB, {one.shards:,} for {one.shards_for}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _hot(costs: Costs) -> str:
    lines = ["| key in one slot | share of Redis's time for a task | µs of Redis a node a second |", "|---|---|---|"]
    for key in sorted({*costs.hot_share_of_task, *costs.hot_us_per_node_s}):
        share, node = costs.hot_share_of_task.get(key, 0.0), costs.hot_us_per_node_s.get(key, 0.0)
        lines.append(f"| `{key}` | {share:.2%} | {number(node)} |")
    return "\n".join(lines)


def comparison(compared: Sequence[Compared]) -> str:
    """Predicted beside measured, in Markdown."""
    head = ["nodes", "devices", "tasks/s", "what", "predicted", "measured", "measured ÷ predicted"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for c in compared:
        ratio = number(c.measured / c.predicted) if c.predicted else ""
        size = f"{c.point.nodes} | {c.point.devices:,} | {c.point.tasks_per_s:,g}"
        values = f"{number(c.predicted)} {c.unit} | {number(c.measured)} {c.unit}"
        lines.append(f"| {size} | {c.what} | {values} | {ratio} |")
    return "\n".join(lines)


def shards_table(shards: Sequence[Shard]) -> str:
    """Each primary's part of the work, in Markdown."""
    lines = ["| primary | predicted | processor time | commands |", "|---|---|---|---|"]
    for which, one in enumerate(shards, 1):
        lines.append(f"| {which} | {one.predicted:.1%} | {one.processor:.1%} | {one.commands:.1%} |")
    return "\n".join(lines)
