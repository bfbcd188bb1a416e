"""Row `memory`: what a registered device costs its node while nothing happens."""

import asyncio
from collections import defaultdict

import psutil

from devtools.bench.contestants import FLEET_SETTINGS, REFERENCE, SOCKETIO, Contestant, cluster
from devtools.bench.rows.base import Lab, Row, figure
from devtools.bench.rows.gathering import gathering

__all__ = ["memory"]

DEVICES = 5_000
HOW = (
    f"{DEVICES:,} devices on one node, registered, then idle with a heartbeat each; growth of the node's resident "
    "memory since 50 devices had registered, by device; admission of the node set for the fleet"
)
FIRST = 50
KB = 1024


async def memory(lab: Lab) -> Row:
    """Kilobytes a device, beside the others'. Raises BenchError, ScriptError."""
    taken: dict[str, list[float]] = defaultdict(list)
    before: dict[str, list[float]] = defaultdict(list)
    for _ in range(lab.few_rounds):
        for contestant in (cluster(1, FLEET_SETTINGS), REFERENCE, SOCKETIO):
            first, each = await _kilobytes(lab, contestant)
            taken[contestant.name].append(each)
            before[contestant.name].append(first)
    value = figure(
        "memory/device",
        "resident memory per idle registered device, 5,000 on a node",
        "KB",
        taken["cluster"],
        better="lower",
        floor=32,
        aim=26,
        beside={f"{name}, KB": values for name, values in taken.items() if name != "cluster"},
    )
    return Row("memory", [value], {"kb_per_device": dict(taken), "kb_before": dict(before)}, HOW)


async def _kilobytes(lab: Lab, contestant: Contestant) -> tuple[float, float]:
    """The node with the first devices, and what each further one adds."""
    # What the first of them brings (code, buffers, pools) is no device's.
    async with gathering(lab, contestant, FIRST) as (running, fleet):
        node = psutil.Process(next(iter(running.pids.values())))
        await asyncio.sleep(1.0)
        before = node.memory_info().rss
        more = lab.scale(DEVICES, 200)
        await fleet.arrive(more, at_once=50)
        async with fleet.beating(lab.scale(20, 1)):
            await asyncio.sleep(lab.scale(22, 1))
        return before / KB, (node.memory_info().rss - before) / more / KB
