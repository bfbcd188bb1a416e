"""`docs/SCALING.md`, from measured costs and the model; a figure that nobody measured is named as an assumption."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.bench.document import KEPT, written_by_hand
from lib.bench.report import Report, number
from lib.scaling.check import Compared
from lib.scaling.costs import Costs
from lib.scaling.model import Assumptions, Plan, plan, saturation

__all__ = ["SIZES", "comparison", "scaling", "sizes_table", "write_scaling"]

# Devices, tasks per second.
SIZES = ((1_000, 100), (10_000, 1_000), (100_000, 10_000), (1_000_000, 10_000), (1_000_000, 100_000))
GB, MB = 2**30, 2**20
COLUMNS = (
    *("devices", "tasks/s", "nodes", "because of", "shards", "because of", "shards for processors alone"),
    *("nodes' memory", "Redis's memory", "clients' traffic", "Redis's traffic", "busiest key of one slot"),
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
}
INTRODUCTION = """# Scaling

Written by `scripts/scaling_model` from the results of `scripts/bench`; repeat it with

```console
$ scripts/bench --out .run/bench
$ scripts/scaling_model .run/bench/results.json --check --document
```

Devices and nodes cost what each costs at small sizes. A task costs less the more there are, since those that come
together share pipelines and turns of the event loop: its cost was measured at a slow pace and at full load, and lies
on the line between the two (logarithmic axes). `--check` compares all of that with runs at sizes that were not
calibrated. Costs are of a single Redis server; in a Redis Cluster a publication is a command of its own, since scripts
may touch one slot only. Lists of all clients and other reads are not part of it.
"""
KEYS = """## Where the load lies in a Redis Cluster

Keys of a device carry one of 4,096 tags, by a hash of its id; a session whose id the cluster made carries the tag of
its device, so that one script touches both; names of tasks and batches have tags of their own: these spread over all
shards as their ids do, and so does the bus, since a node's channel is a slot (sharded publications). A node's list of
its clients (`aip:{node:<id>}:clients`) is one slot a node, and every device on it is noted there every few seconds: as
many slots as nodes. What has no id in its key is one slot, on one shard, whatever
their number:

- `aip:sessions`: the newest sessions of the cluster; every node adds those of one turn of its loop in one call.
- `aip:events`: the newest events of the cluster; every node appends what it noted, up to 32 events an entry.
- `aip:due`: what is to be looked at later; devices that go away and tasks that wait for one are put there, and every
  node asks it once a second.
- `aip:{nodes}:…`: leases and what nodes say of themselves; every node renews once a second, and is told all live
  nodes: the answers grow with the square of the number of nodes.

What the first two cost a task is measured by which key each command names, with what scripts do to it. A node's part is
all that an idle Redis uses, divided among the keys that idle nodes name: more than it is, since Redis has housekeeping
of its own.
"""
KUBERNETES = """## What a machine under it must allow

- **Open files**: a node needs one a socket and one a request, and keeps 256 in reserve: with the setting
  `max_tcp_connections` (25,000) that is `ulimit -n` ≥ 25,256 in the pod. It raises its soft limit itself; the hard
  limit is the container runtime's. It warns at start and bears fewer if that is lower.
- **Connection tracking**: each socket is an entry in `nf_conntrack` on every machine that translates its address (the
  balancer's and, behind a Service, the node's). `net.netfilter.nf_conntrack_max` must exceed the sockets of all pods
  on a machine, requests included, and the entries must outlive the silence between two pings (20 s).
- **Ephemeral ports**: a balancer's address reaches one pod's address over as many connections as
  `net.ipv4.ip_local_port_range` has ports; by the kernel's default (32768 to 60999) that is 28,232. More sockets on a
  pod need more balancers, or more addresses.
- **Accept queue**: the nodes listen with a backlog of 4096; the kernel uses the smaller of that and
  `net.core.somaxconn`. A fleet that comes back together overflows it, and whoever is dropped tries again a second
  later.
- **Memory**: buffers of sockets are the kernel's (`net.ipv4.tcp_mem`), not in the nodes' resident memory, and count
  against the pod's limit where cgroups account for them.
"""


def write_scaling(report: Report, costs: Costs, assumed: Assumptions, compared: Sequence[Compared], path: Path) -> None:
    """Write the document; what people wrote below the line is kept."""
    kept = written_by_hand(path)
    path.write_text(f"{scaling(report, costs, assumed, compared)}\n{KEPT}\n{kept}", encoding="utf-8")


def scaling(report: Report, costs: Costs, assumed: Assumptions, compared: Sequence[Compared]) -> str:
    """The document in Markdown, but for what people wrote."""
    machine = ", ".join(f"{name} {report.machine.get(name)}" for name in ("processor", "python", "redis-server"))
    parts = [INTRODUCTION, f"## Costs, as measured\n\nOn {machine}, {report.machine.get('when')}.\n", _costs(costs), ""]
    parts += ["## How many of each\n", _assumptions(assumed), sizes_table(costs, assumed), ""]
    parts += ["## What is full first\n", "With two nodes and one Redis, as tasks come more often:\n"]
    parts += [_saturation(costs, assumed), "", KEYS, _hot(costs), "", KUBERNETES]
    if compared:
        parts += ["## Predicted and measured\n", comparison(compared), ""]
    return "\n".join(parts)


def _costs(costs: Costs) -> str:
    lines = ["| what | costs |", "|---|---|"]
    for task in (costs.paced, costs.full):
        rate = f"a task, {task.per_s:,.0f} a second"
        lines.append(f"| nodes' processors (both that it crosses), {rate} | {number(task.node_us)} µs |")
        lines.append(f"| Redis's processor, {rate} | {number(task.redis_us)} µs |")
    return "\n".join([*lines, *(f"| {t} | {number(getattr(costs, n))} {u} |" for n, (t, u) in NAMES.items())])


def _assumptions(assumed: Assumptions) -> str:
    return (
        f"Assumed: processors are used to {assumed.utilisation:.0%}; a node is one process on one processor and holds "
        f"{assumed.connections_per_node:,} sockets; a Redis server uses one processor and "
        f"{assumed.redis_bytes_per_shard / GB:g} GB; results are kept for {assumed.retention_s:,} s. Replicas of "
        "Redis, a spare node for each that may be lost, and what is asked for by others come on top.\n"
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
        f"{-(-d.redis_processors // assumed.utilisation):,.0f}",
        *(f"{number(d.node_bytes / GB)} GB", f"{number(d.redis_bytes / GB)} GB"),
        *(f"{number(d.client_bytes_s / MB)} MB/s", f"{number(d.redis_net_bytes_s / MB)} MB/s", hot),
    ]
    return f"| {' | '.join(cells)} |"


def _saturation(costs: Costs, assumed: Assumptions) -> str:
    lines = ["| full | at tasks/s | what helps |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {s.what} | {s.tasks_per_s:,.0f} | {s.remedy} |" for s in saturation(costs, assumed))]
    )


def _hot(costs: Costs) -> str:
    lines = ["| key in one slot | share of Redis's time for a task | µs of Redis a node a second |", "|---|---|---|"]
    for key in sorted({*costs.hot_share_of_task, *costs.hot_us_per_node_s}):
        share, node = costs.hot_share_of_task.get(key, 0.0), costs.hot_us_per_node_s.get(key, 0.0)
        lines.append(f"| `{key}` | {share:.2%} | {number(node)} |")
    return "\n".join(lines)


def comparison(compared: Sequence[Compared]) -> str:
    """Predicted beside measured, in Markdown."""
    lines = ["| devices | tasks/s | what | predicted | measured | measured ÷ predicted |", "|---|---|---|---|---|---|"]
    for c in compared:
        ratio = number(c.measured / c.predicted) if c.predicted else ""
        size = f"{c.point.devices:,} | {c.point.tasks_per_s:g}"
        values = f"{number(c.predicted)} {c.unit} | {number(c.measured)} {c.unit}"
        lines.append(f"| {size} | {c.what} | {values} | {ratio} |")
    return "\n".join(lines)
