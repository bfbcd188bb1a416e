"""What the simulations say at each size, as tables of docs/SCALING.md."""

from devtools.scaling.costs import Costs
from devtools.scaling.model import US, Assumptions, plan
from devtools.scaling.placement import fewest_shards
from devtools.scaling.sizes import SIZES
from devtools.scaling.storm import returning
from node.settings import Settings

__all__ = ["PLACEMENT", "STORM", "placement_table", "storm_table"]

PLACEMENT = """Simulated (`devtools/scaling/placement.py`): the keys of so many devices and nodes, as the cluster
builds them, in the slots where Redis puts them, the slots dealt out in equal ranges. Shards are those that the work
alone needs; memory may need more (above).
"""
STORM = """Simulated (`devtools/scaling/storm.py`) with the nodes' own admission, as shipped, and the device agent's
own way of waiting. Times are seconds since the sockets broke, until so many of the devices were registered again.
"""


def placement_table(costs: Costs, assumed: Assumptions) -> str:
    """How many shards the work needs as its keys lie, and how busy they are."""
    head = ["devices", "tasks/s", "shards", "busiest shard", "average", "devices on the fullest ÷ average"]
    lines = [_line(head), "|" + "---|" * len(head)]
    for devices, tasks in SIZES:
        nodes = plan(costs, assumed, devices=devices, tasks_per_s=tasks).nodes
        size = {"devices": devices, "tasks_per_s": tasks, "nodes": nodes}
        shards, found = fewest_shards(costs, assumed.utilisation, **size)
        cells = [f"{devices:,}", f"{tasks:,}", f"{shards:,}", f"{found.busiest:.0%} of a processor"]
        lines.append(_line([*cells, f"{found.average:.0%}", f"{found.tags:.2f}"]))
    return "\n".join(lines)


def storm_table(costs: Costs, assumed: Assumptions) -> str:
    """One node dies, and all sockets break, at each number of devices."""
    head = ["devices", "nodes", "what breaks", "half back", "99 %", "all", "refusals each", "most registrations/s"]
    head += ["a node's processor for them", "Redis's"]
    lines = [_line(head), "|" + "---|" * len(head)]
    settings = Settings()
    for devices, tasks in dict(SIZES).items():
        nodes = plan(costs, assumed, devices=devices, tasks_per_s=tasks).nodes
        held = devices // nodes
        for what, coming, left, stay in (
            ("one node dies", devices - held * (nodes - 1), nodes - 1, held),
            ("every socket", devices, nodes, 0),
        ):
            one = returning(settings, devices=coming, nodes=left, held=stay, arrival_us=costs.node_us_per_arrival)
            busy = one.registrations_per_s / left * costs.node_us_per_arrival / US
            redis = one.registrations_per_s * costs.redis_us_per_arrival / US
            times = [f"{s:.1f} s" for s in (one.half_s, one.most_s, one.all_s)]
            cells = [f"{devices:,}", f"{nodes:,}", f"{what}: {coming:,} devices", *times, f"{one.refusals:.1f}"]
            lines.append(_line([*cells, f"{one.registrations_per_s:,.0f}", f"{busy:.0%}", f"{redis:.0%}"]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
