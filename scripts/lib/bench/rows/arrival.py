"""Row `arrival`: thousands of devices come at the same moment, as after a network that was away."""

from collections import defaultdict

from lib.bench.contestants import FLEET_SETTINGS, REFERENCE, SOCKETIO, Contestant, cluster
from lib.bench.errors import BenchError
from lib.bench.fleet import Fleet
from lib.bench.rows.base import Lab, Row, figure

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
    refused: dict[str, list[int]] = defaultdict(list)
    for _ in range(lab.rounds):
        for contestant in (cluster(1, FLEET_SETTINGS), REFERENCE, SOCKETIO):
            rate, refusals = await _arrive(lab, contestant)
            rates[contestant.name].append(rate)
            refused[contestant.name].append(refusals)
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
    return Row("arrival", [value], {"registrations_per_s": dict(rates), "refused_once": dict(refused)}, HOW)


async def _arrive(lab: Lab, contestant: Contestant) -> tuple[float, int]:
    devices = lab.scale(DEVICES, 200)
    with contestant.running(lab.server_cpus) as running:
        fleet = Fleet(running.sockets, running.device)
        lab.settle()
        try:
            took_s = await fleet.arrive(devices, at_once=devices)
            if fleet.alive != devices:
                raise BenchError(f"{contestant.name}: {devices - fleet.alive} of {devices} sockets did not stay")
            return devices / took_s, len(fleet.refusals)
        finally:
            await fleet.leave()
