"""One run of chaos: a cluster comes up, is used and broken as scheduled, is mended, settles, and is judged.

Whatever fails, every process that was started is ended. `ScriptError` if the cluster does not even come up.
"""

import asyncio
import traceback
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from devtools.chaos.cluster import ClusterUnderTest
from devtools.chaos.constellations import Orchestrator, SdkOrchestrator
from devtools.chaos.devices import LightDevice, UfoDevice
from devtools.chaos.evidence import Evidence
from devtools.chaos.injectors import Injected, Injectors, RealDevice, Target
from devtools.chaos.inspection import REQUEST_S, Inspector
from devtools.chaos.invariants import Verdict, judge
from devtools.chaos.ledger import Ledger
from devtools.chaos.load import RestLoad
from devtools.chaos.model import Model
from devtools.chaos.outages import Gauge
from devtools.chaos.plan import Plan
from devtools.chaos.probes import MemoryWatch, probe_reads
from devtools.chaos.replication import ReplicationWatch
from devtools.chaos.schedule import Fault
from devtools.chaos.tasks import TaskMaker
from devtools.outcome import Exit, ScriptError, say
from devtools.proxy import Proxy

__all__ = ["CONSTELLATIONS", "Result", "run"]

CONSTELLATIONS = ("galaxy-raw", "galaxy-sdk")
RAW_LINKS = 4
MEMORY_BOUND = 256 << 20
ONLINE_S = 60.0
HEAL_S = 90.0


@dataclass(slots=True)
class Result:
    """A run that is over."""

    plan: Plan
    evidence: Evidence
    verdict: Verdict
    injected: list[Injected]
    skipped: list[str]
    gauges: list[Gauge]
    largest_lag_s: float
    settled_s: float


class _Run:
    """The parts of a run, and the order in which they act."""

    def __init__(self, plan: Plan, faults: Sequence[Fault], ledger: Ledger, llm_base_url: str) -> None:
        self.plan = plan
        self.faults = faults
        self.ledger = ledger
        self.cluster = ClusterUnderTest(plan, llm_base_url)
        self.maker = TaskMaker(plan, self.ledger, plan.generator("tasks"))
        self.memory = MemoryWatch(self.cluster)
        self.reading, self.dispatching = Gauge("reads"), Gauge("dispatches")
        followed = self.cluster.redis.servers if self.cluster.redis.can_fail_over else []
        self.replication = ReplicationWatch(followed, lambda: self.ledger.now_s, one_leader=plan.redis == "sentinel")
        self.lines = {name: Proxy(self.cluster.front_port) for name in [*plan.device_names(), *CONSTELLATIONS]}
        self.devices: dict[str, Target] = {}
        self.broken: list[str] = []
        self._load_ends = asyncio.Event()
        self._watch_ends = asyncio.Event()

    async def act(self) -> Result:
        """Everything, from the first process to the verdict."""
        try:
            await self.cluster.start()
            for line in self.lines.values():
                await line.open()
            self.replication.start()
            return await self._use_and_judge()
        finally:
            self.replication.close()
            for line in self.lines.values():
                await line.close()
            self.cluster.dispose()

    async def _use_and_judge(self) -> Result:
        raw, sdk = self._orchestrators()
        devices = self._light_devices()
        injectors = Injectors(self.cluster, self.ledger, self.devices, self.lines)
        self._start_real_devices()
        async with asyncio.TaskGroup() as group:
            lives = [group.create_task(device.run(), name=f"device {device.client_id}") for device in devices]
            lives.append(group.create_task(raw.run(self._load_ends), name="raw constellation"))
            group.create_task(self.memory.run(self._watch_ends), name="memory")
            await self._await_everybody(raw)
            say(f"Everybody is there after {self.ledger.now_s:.1f} s; the faults begin.")
            await self._make_chaos(injectors, sdk)
            self._watch_ends.set()
            result = await self._settle_and_judge(injectors, raw)
            for life in lives:
                life.cancel()
        return result

    # -- who takes part --------------------------------------------------------------------------------------------
    def _orchestrators(self) -> tuple[Orchestrator, SdkOrchestrator]:
        names = self.plan.device_names()
        # Some of each kind: real ones are first in the list, light ones last.
        chosen = [names[i * (len(names) - 1) // (RAW_LINKS - 1)] for i in range(min(RAW_LINKS, len(names)))]
        raw_name, sdk_name = CONSTELLATIONS
        generator = self.plan.generator
        raw = Orchestrator(raw_name, list(dict.fromkeys(chosen)), self.lines[raw_name], self.maker, generator(raw_name))
        return raw, SdkOrchestrator(sdk_name, names, self.lines[sdk_name], self.maker, generator(sdk_name))

    def _light_devices(self) -> list[LightDevice | UfoDevice]:
        made: list[LightDevice | UfoDevice] = []
        for name in self.plan.device_names():
            if name.startswith("real-"):
                continue
            kind = UfoDevice if name.startswith("ufo-") else LightDevice
            device = kind(name, self.lines[name], self.ledger, self.plan.generator(name))
            self.devices[name] = device
            made.append(device)
        return made

    def _start_real_devices(self) -> None:
        for name in self.plan.device_names():
            if name.startswith("real-"):
                self.devices[name] = RealDevice(name, self.lines[name])
                self.cluster.add_device(name, self.lines[name].port).launch()

    async def _await_everybody(self, raw: Orchestrator) -> None:
        """Returns when all devices and the raw constellation are registered."""
        wanted = {*self.plan.device_names(), *(link.client_id for link in raw.links)}
        deadline_s = self.ledger.now_s + ONLINE_S
        async with httpx.AsyncClient(timeout=REQUEST_S, trust_env=False) as http:
            while True:
                answer = await http.get(f"{self.cluster.front_url}/api/clients")
                missing = wanted - set(answer.json().get("online_clients", []))
                if not missing:
                    return
                if self.ledger.now_s > deadline_s:
                    raise ScriptError(Exit.NOT_READY, f"not registered after {ONLINE_S:.0f} s: {sorted(missing)}")
                await asyncio.sleep(0.2)

    # -- chaos -----------------------------------------------------------------------------------------------------
    async def _make_chaos(self, injectors: Injectors, sdk: SdkOrchestrator) -> None:
        """Load for as long as the plan says, and the faults in it; returns when the last request was answered."""
        load = RestLoad(
            self.cluster, self.plan.device_names(), self.maker, self.dispatching, self.plan.generator("load")
        )
        began_s = self.ledger.now_s
        async with asyncio.TaskGroup() as group:
            group.create_task(self._guarded("load", load.run(self._load_ends)))
            group.create_task(self._guarded("sdk", sdk.run(self._load_ends)))
            probing = probe_reads(self.cluster, self.ledger, self.reading, self._load_ends)
            group.create_task(self._guarded("probe", probing))
            for fault in self.faults:
                group.create_task(self._guarded(str(fault), self._inject(injectors, fault, began_s)))
            await asyncio.sleep(self.plan.seconds)
            self._load_ends.set()
        for gauge in (self.reading, self.dispatching):
            gauge.close(self.ledger.now_s)

    async def _inject(self, injectors: Injectors, fault: Fault, began_s: float) -> None:
        await asyncio.sleep(max(0.0, began_s + fault.at_s - self.ledger.now_s))
        say(f"{self.ledger.now_s:8.2f} s  {fault.kind.value} {fault.target}")
        await injectors.inject(fault)

    async def _guarded(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        """A part of the harness that breaks makes the run worthless; the rest goes on, to show more."""
        try:
            await work
        except Exception:
            self.broken.append(f"{what}: {traceback.format_exc(limit=-3)}")

    # -- afterwards ------------------------------------------------------------------------------------------------
    async def _settle_and_judge(self, injectors: Injectors, raw: Orchestrator) -> Result:
        say(f"{self.ledger.now_s:8.2f} s  no more load; mending what is broken, and waiting for the last task")
        began_s = self.ledger.now_s
        async with asyncio.timeout(HEAL_S):
            await injectors.heal()
        clients = [*self.plan.device_names(), *(link.client_id for link in raw.links)]
        evidence = Evidence(self.ledger, self.plan.grace_s, memory_bound=MEMORY_BOUND, broken=self.broken)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=REQUEST_S, limits=limits, trust_env=False) as http:
            inspector = Inspector(self.cluster, self.ledger, clients, http)
            await inspector.settle(self.plan.settle_s)
            settled_s = self.ledger.now_s - began_s
            evidence.disagreements = await inspector.disagreements(lambda: self._connected(raw))
            evidence.unserved = await inspector.roll_call(self.plan.device_names(), self.maker)
            evidence.keys = await inspector.keys()
            evidence.readings = await inspector.read_all()
            inspector.collect_effects()
            await self.cluster.stop()
            evidence.complaints = inspector.complaints()
        evidence.deserted = [text for service in self.cluster.services() for text in service.deserted]
        evidence.largest_memory = self.memory.largest
        evidence.loss_windows = self.replication.log.loss_windows()
        return Result(
            plan=self.plan,
            evidence=evidence,
            verdict=judge(evidence),
            injected=injectors.injected,
            skipped=injectors.skipped,
            gauges=[self.reading, self.dispatching],
            largest_lag_s=self.replication.log.largest_lag_s,
            settled_s=settled_s,
        )

    def _connected(self, raw: Orchestrator) -> list[str]:
        """Who holds a socket by his own word. A real device is believed while its process runs."""
        light = [name for name, d in self.devices.items() if not isinstance(d, RealDevice) and d.connected]
        real = [name for name, service in self.cluster.devices.items() if service.alive]
        return [*light, *real, *(link.client_id for link in raw.links if link.connected)]


async def run(plan: Plan, faults: Sequence[Fault]) -> Result:
    """The whole run. Raises ScriptError or TopologyError if the cluster does not come up or cannot be mended."""
    ledger = Ledger()
    async with Model(ledger) as model:
        try:
            return await _Run(plan, faults, ledger, model.url).act()
        except BaseExceptionGroup as group:
            raise _cause(group) from group


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a group of tasks failed of first."""
    first = group.exceptions[0]
    return _cause(first) if isinstance(first, BaseExceptionGroup) else first
