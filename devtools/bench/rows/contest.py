"""Rows `dispatch` and `latency`: the cluster, the reference, python-socketio and bare Starlette, in turn, in rounds.

100 devices, sockets on one node and REST on the other, so that every task crosses nodes. The cluster's devices answer,
and each of its tasks is read back; the others only deliver: the quotients say what that difference costs.
"""

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from devtools.bench.contestants import ECHO, REFERENCE, SOCKETIO, Contestant, Running, cluster
from devtools.bench.fleet import Fleet
from devtools.bench.load import Burst, burst, one_at_a_time, verify
from devtools.bench.rows.base import Lab, Row, figure
from devtools.bench.stats import Latency, quotients

__all__ = ["Contest"]

DEVICES, AT_ONCE = 100, 64
HOW = (
    f"{DEVICES} devices, {AT_ONCE} requests at once (and one at a time); two nodes on the same processor, sockets on "
    "the first and REST on the second; settings of the nodes as shipped; the cluster's devices answer, and every task "
    "is read back over REST as completed; contestants in turn, each with fresh processes and a Redis of its own"
)


@dataclass(frozen=True)
class _Try:
    """One contestant in one round. CPU time of its servers is per task, in microseconds.

    `alone`: as `serial`, but each task begins after the end of the one before, where ends are stored.
    """

    load: Burst
    serial: Latency | None
    alone: Latency | None
    server_us: float
    redis_us: float


class Contest:
    """Fought once for both rows: `kinds` says what of it is wanted, of `dispatch` and `latency`."""

    def __init__(self, lab: Lab, kinds: set[str]) -> None:
        self._lab = lab
        self._kinds = kinds
        self._tries: dict[str, list[_Try]] = {}

    async def _fight(self) -> None:
        contestants = [cluster(), REFERENCE, SOCKETIO, *([ECHO] if "dispatch" in self._kinds else [])]
        tries: dict[str, list[_Try]] = defaultdict(list)
        for _ in range(self._lab.rounds):
            for contestant in contestants:
                tries[contestant.name].append(await self._one(contestant))
        self._tries = tries

    async def _one(self, contestant: Contestant) -> _Try:
        with contestant.running(self._lab.server_cpus) as running:
            fleet = Fleet(running.sockets, running.device)
            if running.delivers:
                await fleet.arrive(self._lab.scale(DEVICES, 10), at_once=20)
            else:
                fleet.names = ["device-0"]
            try:
                return await self._measure(running, fleet)
            finally:
                await fleet.leave()

    async def _measure(self, running: Running, fleet: Fleet) -> _Try:
        scale = self._lab.scale
        await burst(running, fleet, scale(1000, 50), at_once=16)
        self._lab.settle()
        tasks = scale(15_000, 200)
        cpu, redis_cpu = running.cpu(), running.redis_cpu()
        load, numbers = await burst(running, fleet, tasks, at_once=scale(AT_ONCE, 8))
        used, redis_used = running.cpu() - cpu, running.redis_cpu() - redis_cpu
        await verify(running, numbers)
        serial = alone = None
        if "latency" in self._kinds and running.delivers:
            serial, numbers = await one_at_a_time(running, fleet, scale(1500, 50))
            await verify(running, numbers)
        if serial and running.completes:
            alone, _ = await one_at_a_time(running, fleet, scale(500, 20), to_end=True)
        return _Try(load, serial, alone, used.total_s / tasks * 1e6, redis_used.total_s / tasks * 1e6)

    async def dispatch(self) -> Row:
        """Tasks per second, beside the others'."""
        await self._tried()
        done = self._rates("cluster")
        rates = {name: self._rates(name) for name in self._tries}
        figures = [
            figure(
                "dispatch/reference",
                "completed tasks/s ÷ reference with redis-py pipeline (dispatch only)",
                "",
                quotients(done, rates["reference"]),
                better="higher",
                floor=0.5,
                aim=0.8,
                beside={f"{name}, tasks/s": rates[name] for name in ("cluster", "reference")},
            ),
            figure(
                "dispatch/socketio",
                "completed tasks/s ÷ python-socketio (emit only)",
                "",
                quotients(done, rates["python-socketio"]),
                better="higher",
                floor=1.5,
                aim=2.5,
                beside={f"{name}, tasks/s": rates[name] for name in ("cluster", "python-socketio")},
            ),
            figure(
                "dispatch/starlette",
                "completed tasks/s ÷ bare Starlette (answers only)",
                "",
                quotients(done, rates["bare Starlette"]),
                better="higher",
                beside={"bare Starlette, answers/s": rates["bare Starlette"]},
            ),
        ]
        return Row("dispatch", figures, self._details(), HOW)

    async def latency(self) -> Row:
        """From the request to the task at its device, beside the others."""
        await self._tried()
        one = {name: [t.serial.p50_us for t in tries if t.serial] for name, tries in self._tries.items()}
        many = {name: [t.load.deliver.p99_us for t in tries if t.load.deliver] for name, tries in self._tries.items()}
        others = [name for name, values in one.items() if values]
        alone = [t.alone.p50_us for t in self._tries["cluster"] if t.alone]
        figures = [
            figure(
                "latency/p50",
                "delivery p50, one at a time ÷ the same reference",
                "",
                quotients(one["cluster"], one["reference"]),
                better="lower",
                floor=1.3,
                aim=1.1,
                beside={f"{name}, µs": one[name] for name in others}
                | {"cluster, each after the end of the one before, µs": alone},
            ),
            figure(
                "latency/p99",
                "delivery p99 at 64 at once ÷ the same reference",
                "",
                quotients(many["cluster"], many["reference"]),
                better="lower",
                floor=2.0,
                aim=1.2,
                beside={f"{name}, µs": many[name] for name in others},
            ),
        ]
        return Row("latency", figures, self._details(), HOW)

    async def _tried(self) -> None:
        if not self._tries:
            await self._fight()

    def _rates(self, name: str) -> list[float]:
        """Tasks per second to the last thing that the contestant does with one."""
        loads = [t.load for t in self._tries[name]]
        return [b.completed_per_s or b.delivered_per_s or b.answered_per_s for b in loads]

    def _details(self) -> dict[str, Any]:
        return {name: [asdict(t) for t in tries] for name, tries in self._tries.items()}
