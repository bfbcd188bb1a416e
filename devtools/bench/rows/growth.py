"""Row `growth`: what a dispatch costs more because many devices are registered."""

from dataclasses import dataclass

from devtools.bench.contestants import FLEET_SETTINGS, Running, cluster
from devtools.bench.fleet import Fleet
from devtools.bench.load import burst, verify
from devtools.bench.rows.base import Lab, Row, figure
from devtools.bench.rows.gathering import gathering
from devtools.bench.stats import quotients

__all__ = ["growth"]

FEW, MANY = 100, 10_000
HOW = (
    f"64 requests at once, spread over all devices; first with {FEW} of them, then, on the same nodes, with {MANY:,}: "
    "the time a task takes of the whole, and the nodes' and Redis's processor time for it, pings of the idle sockets "
    "included; admission of the nodes set for the fleet"
)


@dataclass(frozen=True)
class _Cost:
    """Microseconds a task: on the clock, and of processors."""

    wall_us: float
    node_us: float
    redis_us: float


async def growth(lab: Lab) -> Row:
    """The cost with many ÷ with few. Raises BenchError, ScriptError."""
    few: list[_Cost] = []
    many: list[_Cost] = []
    for _ in range(lab.rounds):
        async with gathering(lab, cluster(2, FLEET_SETTINGS), lab.scale(FEW, 20)) as (running, fleet):
            await _cost(lab, running, fleet, lab.scale(3000, 50))
            few.append(await _cost(lab, running, fleet, lab.scale(15_000, 200)))
            await fleet.arrive(lab.scale(MANY - FEW, 200), at_once=50)
            await _cost(lab, running, fleet, lab.scale(MANY, 220))
            many.append(await _cost(lab, running, fleet, lab.scale(15_000, 200)))
    processors = [
        (m.node_us + m.redis_us) / (f.node_us + f.redis_us) if f.node_us + f.redis_us else 1.0
        for m, f in zip(many, few, strict=True)
    ]
    value = figure(
        "growth/dispatch",
        "dispatch cost with 10,000 registered devices ÷ with 100",
        "",
        quotients([m.wall_us for m in many], [f.wall_us for f in few]),
        better="lower",
        floor=1.15,
        aim=1.05,
        beside={
            "µs a task with few": [f.wall_us for f in few],
            "with many": [m.wall_us for m in many],
            "processor time, many ÷ few": processors,
        },
    )
    details = {"few": [vars(f) for f in few], "many": [vars(m) for m in many]}
    return Row("growth", [value], details, HOW)


async def _cost(lab: Lab, running: Running, fleet: Fleet, tasks: int) -> _Cost:
    lab.settle()
    cpu, redis_cpu = running.cpu(), running.redis_cpu()
    load, numbers = await burst(running, fleet, tasks, at_once=lab.scale(64, 8))
    used, redis_used = running.cpu() - cpu, running.redis_cpu() - redis_cpu
    await verify(running, numbers)
    return _Cost(1e6 / load.completed_per_s, used.total_s / tasks * 1e6, redis_used.total_s / tasks * 1e6)
