"""Row `arrival`: thousands of devices come at the same moment, as after a network that was away."""

from collections import defaultdict

from devtools.bench.connections import TRAFFIC
from devtools.bench.contestants import FLEET_SETTINGS, REFERENCE, SOCKETIO, Contestant, cluster
from devtools.bench.errors import BenchError
from devtools.bench.fleet import Fleet
from devtools.bench.redis_cost import redis_use
from devtools.bench.rows.base import Lab, Row, figure

__all__ = ["arrival"]

DEVICES = 5_000
SETTINGS = ", ".join(f"{name}={value}" for name, value in FLEET_SETTINGS.items())
HOW = (
    f"{DEVICES:,} sockets opened at once on one node; the time until the last of them is registered; settings of the "
    f"node, as an operator sets them who expects the whole fleet at once: {SETTINGS}; who is refused comes back when "
    "it was told to, and who is refused twice fails the measurement"
)


async def arrival(lab: Lab) -> Row:
    """Registrations a second, beside the others'. Raises BenchError, ScriptError."""
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(lab.rounds):
        for contestant in (cluster(1, FLEET_SETTINGS), REFERENCE, SOCKETIO):
            rate, cost = await _arrive(lab, contestant)
            rates[contestant.name].append(rate)
            costs[contestant.name].append(cost)
    value = figure(
        "arrival/rate",
        "registrations per second on one node (5,000 devices arriving at once)",
        "/s",
        rates["cluster"],
        better="higher",
        floor=800,
        aim=1500,
        beside={f"{name}, /s": values for name, values in rates.items() if name != "cluster"},
    )
    return Row("arrival", [value], {"registrations_per_s": dict(rates), "of_each": dict(costs)}, HOW)


async def _arrive(lab: Lab, contestant: Contestant) -> tuple[float, dict[str, float]]:
    """Registrations a second, and what each of them took."""
    devices = lab.scale(DEVICES, 200)
    with contestant.running(lab.server_cpus) as running:
        fleet = Fleet(running.sockets, running.device)
        lab.settle()
        cpu, used, traffic = running.cpu(), redis_use(running.redis), TRAFFIC.total
        try:
            took_s = await fleet.arrive(devices, at_once=devices)
            spent, asked = running.cpu() - cpu, redis_use(running.redis) - used
            if fleet.alive != devices:
                raise BenchError(f"{contestant.name}: {devices - fleet.alive} of {devices} sockets did not stay")
            cost = {
                "node_us": spent.total_s / devices * 1e6,
                "redis_us": asked.cpu_s / devices * 1e6,
                "redis_net_bytes": (asked.net_in_bytes + asked.net_out_bytes) / devices,
                "client_bytes": (TRAFFIC.total - traffic) / devices,
                "refusals": len(fleet.refusals) / devices,
            }
            return devices / took_s, cost
        finally:
            await fleet.leave()
