"""Does what the schedule says, to real processes, and undoes it.

Each fault is noted when it begins and when it is over. A fault that cannot be done (its process is gone, Redis has not
recovered) is left out and counted as `skipped`; one that fails is a fault of the run itself, and ends it as broken.
`heal` undoes whatever is left, and may be called at any time.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from devtools.chaos.cluster import DRAIN_PATIENCE_S, ClusterUnderTest
from devtools.chaos.devices import LightDevice, UfoDevice
from devtools.chaos.ledger import Deed, Ledger
from devtools.chaos.schedule import Fault, FaultKind
from devtools.proxy import Proxy
from devtools.topologies import Server, TopologyError

__all__ = ["Injected", "Injectors", "RealDevice"]

DEVICE_STOP_S = 15.0
REDIS_RECOVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was done, and when it really began and ended."""

    fault: Fault
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class RealDevice:
    """An `aip-device` process and the network before it."""

    name: str
    line: Proxy


Target = LightDevice | UfoDevice | RealDevice


@dataclass
class Injectors:
    """Who can break what. `lines` are the networks of the constellations, by name."""

    cluster: ClusterUnderTest
    ledger: Ledger
    devices: Mapping[str, Target]
    lines: Mapping[str, Proxy]
    injected: list[Injected] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    _redis_is_hurt: bool = False

    def __post_init__(self) -> None:
        self._ways: dict[FaultKind, Callable[[Fault], Awaitable[str]]] = {
            FaultKind.NODE_KILL: self._kill_node,
            FaultKind.NODE_DRAIN: self._drain_node,
            FaultKind.NODE_FREEZE: self._freeze_node,
            FaultKind.FRONT_RELOAD: self._reload_front,
            FaultKind.FRONT_RESTART: self._restart_front,
            FaultKind.REDIS_DEAF: self._kill_subscribers,
            FaultKind.REDIS_PAUSE: self._pause_redis,
            FaultKind.REDIS_FREEZE: self._freeze_redis,
            FaultKind.REDIS_RESTART: self._restart_redis,
            FaultKind.REDIS_FAILOVER: self._fail_over,
            FaultKind.REDIS_KILL_PRIMARY: self._restart_redis,
            FaultKind.DEVICE_CUT: self._cut,
            FaultKind.DEVICE_SILENT: self._silence,
            FaultKind.DEVICE_RESTART: self._restart_device,
            FaultKind.DEVICE_STOP: self._restart_device,
            FaultKind.CONSTELLATION_CUT: self._cut,
        }

    async def inject(self, fault: Fault) -> None:
        """Do a fault and undo it; returns when that is done."""
        from_s = self.ledger.now_s
        label = f"{fault.kind.value} {fault.target}" + (f" for {fault.for_s:.1f} s" if fault.for_s else "")
        of_redis = fault.kind.value.startswith("redis")
        if of_redis and self._redis_is_hurt:
            # On a slow machine the last failover may not be over: two at a time is more than is promised.
            self.skipped.append(f"{label}: Redis had not recovered")
            return
        self._redis_is_hurt = self._redis_is_hurt or of_redis
        self.ledger.note(Deed.FAULT, fault.target, text=label)
        try:
            outcome = await self._ways[fault.kind](fault)
        except TopologyError as exc:
            self.skipped.append(f"{label}: {exc}")
            self.ledger.note(Deed.HEALED, fault.target, text=f"{fault.kind.value} left out: {exc}")
            return
        finally:
            self._redis_is_hurt = self._redis_is_hurt and not of_redis
        self.injected.append(Injected(fault, from_s, self.ledger.now_s))
        self.ledger.note(Deed.HEALED, fault.target, text=f"{fault.kind.value} {outcome}".rstrip())

    async def heal(self) -> None:
        """Everything runs again; returns when nodes are ready and Redis is healthy."""
        for service in self.cluster.services():
            service.thaw()
        async with self.cluster.redis_lock:
            await asyncio.to_thread(self._heal_redis)
        for service in [*self.cluster.nodes.values(), self.cluster.front, *self.cluster.devices.values()]:
            service.note_if_deserted()
            if not service.alive:
                service.launch()
        await self.cluster.await_ready(list(self.cluster.nodes))

    def _heal_redis(self) -> None:
        redis = self.cluster.redis
        redis.resume()
        for server in redis.servers:
            if not server.alive:
                server.start()
        redis.wait_until_healthy()

    # -- nodes -----------------------------------------------------------------------------------------------------
    async def _kill_node(self, fault: Fault) -> str:
        node = self.cluster.nodes[fault.target]
        node.kill()
        await asyncio.sleep(fault.for_s)
        node.launch()
        return "started again"

    async def _drain_node(self, fault: Fault) -> str:
        node = self.cluster.nodes[fault.target]
        began_s = self.ledger.now_s
        code = await node.terminate(DRAIN_PATIENCE_S)
        took_s = self.ledger.now_s - began_s
        await asyncio.sleep(fault.for_s)
        node.launch()
        return f"ended with {code} after {took_s:.1f} s, started again"

    async def _freeze_node(self, fault: Fault) -> str:
        node = self.cluster.nodes[fault.target]
        node.freeze()
        await asyncio.sleep(fault.for_s)
        node.thaw()
        return "goes on"

    # -- nginx -----------------------------------------------------------------------------------------------------
    async def _reload_front(self, fault: Fault) -> str:  # noqa: ARG002
        self.cluster.front.send_signal(signal.SIGHUP)
        return "asked for"

    async def _restart_front(self, fault: Fault) -> str:
        self.cluster.front.kill()
        await asyncio.sleep(fault.for_s)
        self.cluster.front.launch()
        return "started again"

    # -- Redis -----------------------------------------------------------------------------------------------------
    async def _on_redis(self, work: Callable[[], str]) -> str:
        async with self.cluster.redis_lock:
            return await asyncio.to_thread(work)

    async def _kill_subscribers(self, fault: Fault) -> str:  # noqa: ARG002
        def work() -> str:
            for server in self._data_servers():
                # Nodes only: a sentinel that lost its subscription is no fault of this kind.
                for client in server.client.client_list(_type="pubsub"):
                    if not str(client.get("name", "")).startswith("sentinel-"):
                        server.client.client_kill_filter(_id=client["id"])
            return "done"

        return await self._on_redis(work)

    async def _pause_redis(self, fault: Fault) -> str:
        def work() -> str:
            server = self.cluster.redis.primaries()[0]
            server.client.client_pause(int(fault.for_s * 1000))
            return f"{server.name} was told"

        outcome = await self._on_redis(work)
        await asyncio.sleep(fault.for_s)
        return outcome

    async def _freeze_redis(self, fault: Fault) -> str:
        name = await self._on_redis(self.cluster.redis.pause)
        await asyncio.sleep(fault.for_s)
        self.cluster.redis.resume(name)
        await self._recovered()
        return f"{name} goes on"

    async def _restart_redis(self, fault: Fault) -> str:
        """Kill the primary and start it again: at once (it leads on, or not), or once it has been replaced."""
        name = await self._on_redis(self.cluster.redis.kill_primary)
        await asyncio.sleep(fault.for_s)
        async with self.cluster.redis_lock:
            await asyncio.to_thread(self.cluster.redis.restart, name)
        await self._recovered()
        return f"{name} started again"

    async def _fail_over(self, fault: Fault) -> str:  # noqa: ARG002
        name = await self._on_redis(self.cluster.redis.failover)
        await self._recovered()
        return f"{name} leads"

    async def _recovered(self) -> None:
        """Returns when Redis is whole again: the next fault may need its replicas. Raises TimeoutError if it is not."""
        async with self.cluster.redis_lock, asyncio.timeout(REDIS_RECOVERY_S):
            # Not the topology's own waiting, which no cancellation would end.
            while not await asyncio.to_thread(lambda: self.cluster.redis.healthy):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.1)

    def _data_servers(self) -> list[Server]:
        return [server for server in self.cluster.redis.servers if server.alive]

    # -- clients ---------------------------------------------------------------------------------------------------
    def _line_of(self, target: str) -> Proxy:
        return self.lines[target] if target in self.lines else self.devices[target].line

    async def _cut(self, fault: Fault) -> str:
        self._line_of(fault.target).cut()
        return ""

    async def _silence(self, fault: Fault) -> str:
        self._line_of(fault.target).silence()
        return ""

    async def _restart_device(self, fault: Fault) -> str:
        device = self.devices[fault.target]
        in_order = fault.kind is FaultKind.DEVICE_STOP
        if isinstance(device, RealDevice):
            process = self.cluster.devices[device.name]
            if in_order:
                await process.terminate(DEVICE_STOP_S)
            else:
                process.kill()
            await asyncio.sleep(fault.for_s)
            process.launch()
        else:
            await device.restart(fault.for_s, in_order=in_order)
        return "came back"
