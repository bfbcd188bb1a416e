"""The cluster under test: real nodes, real nginx, real Redis and some real devices, each to be broken by its name.

Every start of a process has a log of its own, so that nothing is lost by a restart, and ports stay the same over
restarts, since nginx and the clients know them. A process that ends without having been told to is remembered as
`deserted`. Whatever happens to this process, its children die with it. Not thread safe, except where a method says so.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from devtools.bootstrap import ROOT
from devtools.chaos.plan import LEASE_TTL_S, Plan
from devtools.front import write_config
from devtools.outcome import Exit, ScriptError
from devtools.processes import describe_exit, spawn
from devtools.servers import search_path
from devtools.service import Service, clean_environment, node_environment
from devtools.topologies import Single, Topology, free_port, open_topology
from devtools.web import Unreachable, ask

__all__ = ["ClusterUnderTest", "WatchedService"]

HOST = "127.0.0.1"
READY_S = 40.0
# After this an nginx worker that was told to go cuts what it still holds: within the run, so that it is seen.
FRONT_DRAIN_S = 3
# Whatever a draining node may take by its settings, and the time to stop.
DRAIN_PATIENCE_S = 40.0
PROGRAMS = Path(sys.executable).parent


class WatchedService(Service):
    """A service with a log for each of its lives, which dies with this process. What ends untold is `deserted`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        logs: Path,
        # What it gets when this process dies; nginx's master must clean up after itself.
        on_parent_death: signal.Signals = signal.SIGKILL,
    ) -> None:
        super().__init__(name, command, logs / f"{name}.0.log", environment)
        self._on_parent_death = on_parent_death
        # When each of its lives began, seconds since the epoch.
        self.starts: list[float] = []
        self.deserted: list[str] = []

    def log_paths(self) -> list[Path]:
        """The logs of all its lives, in order."""
        return [self.log_path.with_name(f"{self.name}.{life}.log") for life in range(1, len(self.starts) + 1)]

    def launch(self) -> None:
        """Run it; returns at once."""
        self.starts.append(time.time())
        self.log_path = self.log_paths()[-1]
        self._running = spawn(
            self.name,
            self._command,
            log=self.log_path,
            env=self._environment or {},
            cwd=ROOT,
            die_with_parent=self._on_parent_death,
        ).handle

    def kill(self) -> None:
        """SIGKILL for it and for what it started; returns once it is gone."""
        self.note_if_deserted()
        if self._running is not None:
            os.killpg(self._running.pid, signal.SIGKILL)
            self._running.wait()
            self._running = None

    async def terminate(self, within_s: float) -> int:
        """SIGTERM; returns the exit code. One that does not end in time is killed, and counted as deserted."""
        self.note_if_deserted()
        if self._running is None:
            return 0
        try:
            code = await asyncio.to_thread(self.stop, within_s)
        except subprocess.TimeoutExpired:
            self.deserted.append(f"{self.name} had not ended {within_s:.0f} s after SIGTERM")
            os.killpg(self._running.pid, signal.SIGKILL)
            code = self._running.wait()
        if code != 0 and not self.deserted:
            self.deserted.append(f"{self.name} {describe_exit(code)} after SIGTERM")
        self._running = None
        return code

    def note_if_deserted(self) -> None:
        """Remember it if the process ended by itself."""
        if self._running is not None and not self.alive:
            how = describe_exit(self._running.returncode)
            self.deserted.append(f"{self.name} {how}, which nobody told it to")
            self._running = None


class ClusterUnderTest:
    """All of it. `start` may raise ScriptError; `dispose` ends everything."""

    def __init__(self, plan: Plan, llm_base_url: str) -> None:
        self.plan = plan
        self._llm_base_url = llm_base_url
        self.logs = plan.run_dir / "logs"
        self.logs.mkdir(parents=True)
        self.redis = _redis_of(plan)
        # The topology is asked by one thread at a time.
        self.redis_lock = asyncio.Lock()
        self.front_port, *ports = [free_port() for _ in range(1 + plan.nodes)]
        self.node_ports = dict(zip(plan.node_names(), ports, strict=True))
        self.nodes = {name: self._node(name) for name in plan.node_names()}
        self.front = self._front()
        self.devices: dict[str, WatchedService] = {}

    @property
    def front_url(self) -> str:
        """Where users reach the cluster."""
        return f"http://{HOST}:{self.front_port}"

    def node_url(self, name: str) -> str:
        """Where a node is reached past nginx."""
        return f"http://{HOST}:{self.node_ports[name]}"

    def services(self) -> list[WatchedService]:
        """Every process of ours but Redis."""
        return [*self.nodes.values(), self.front, *self.devices.values()]

    # -- life ------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Run Redis, nodes and nginx; returns when all are ready."""
        await asyncio.to_thread(self.redis.start)
        for node in self.nodes.values():
            node.launch()
        await self.await_ready(list(self.nodes))
        self.front.launch()
        await self._await(f"{self.front_url}/api/health", self.front)

    async def await_ready(self, names: list[str]) -> None:
        """Returns when these nodes are ready. Raises ScriptError after a long while."""
        for name in names:
            await self._await(f"{self.node_url(name)}/readyz", self.nodes[name])

    async def _await(self, url: str, service: WatchedService) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                answer = await asyncio.to_thread(ask, "GET", url, timeout_s=2.0)
                why = str(answer)
                if answer.status == 200:
                    return
            except Unreachable as exc:
                why = str(exc)
            service.note_if_deserted()
            if time.monotonic() > deadline or not service.alive:
                raise ScriptError(
                    Exit.NOT_READY, f"{service.name} was not ready after {READY_S:.0f} s: {why}", service.log_path
                )
            await asyncio.sleep(0.05)

    def add_device(self, name: str, port: int) -> WatchedService:
        """An `aip-device` that connects to `port`, not started yet."""
        workdir = self.plan.run_dir / "devices" / name
        workdir.mkdir(parents=True)
        command = [str(PROGRAMS / "aip-device"), "start", "--server", f"ws://{HOST}:{port}/ws", "--id", name]
        service = WatchedService(name, [*command, "--workdir", str(workdir)], clean_environment(), self.logs)
        self.devices[name] = service
        return service

    def workdir(self, device: str) -> Path:
        """Where a real device works."""
        return self.plan.run_dir / "devices" / device

    async def stop(self) -> None:
        """End devices and nodes in order, as an operator would, so that how they end is seen too."""
        for service in [*self.devices.values(), *self.nodes.values()]:
            service.thaw()
        await asyncio.gather(*(device.terminate(20.0) for device in self.devices.values()))
        await asyncio.gather(*(node.terminate(DRAIN_PATIENCE_S) for node in self.nodes.values()))

    def dispose(self) -> None:
        """End everything whatever state it is in. May be called again."""
        for service in self.services():
            service.kill()
        self.redis.dispose()

    # -- parts -----------------------------------------------------------------------------------------------------
    def _node(self, name: str) -> WatchedService:
        wanted = {
            "node_id": name,
            "host": HOST,
            "port": self.node_ports[name],
            "redis_url": self.redis.url,
            "lease_ttl_s": LEASE_TTL_S,
            "reconnect_grace_s": self.plan.grace_s,
            "redis_timeout_s": 2.0,
            # Well within DRAIN_PATIENCE_S: by default a node waits longer for clients that are at work.
            "drain_deadline_s": 20,
            # Whoever is there comes from one address.
            "address_share": 1,
            "min_replicas": self.plan.min_replicas,
            "llm_base_url": self._llm_base_url,
            "llm_model": "scripted",
        }
        return WatchedService(name, [str(PROGRAMS / "aip-node")], node_environment(**wanted), self.logs)

    def _front(self) -> WatchedService:
        program = shutil.which("nginx", path=search_path())
        if program is None:
            raise ScriptError(Exit.MISSING, "there is no nginx here: chaos needs it")
        nodes = [f"{HOST}:{port}" for port in self.node_ports.values()]
        config = write_config(
            self.plan.run_dir, self.logs, nodes, f"{HOST}:{self.front_port}", drain_seconds=FRONT_DRAIN_S
        )
        command = [program, "-p", str(config.parent), "-c", str(config), "-e", "stderr", "-g", "daemon off;"]
        return WatchedService("nginx", command, dict(os.environ), self.logs, on_parent_death=signal.SIGTERM)


def _redis_of(plan: Plan) -> Topology:
    directory = plan.run_dir / "redis"
    if plan.redis == "single":
        # Written down before it is answered: a process that is killed loses nothing.
        return Single(directory, arguments=["--appendonly", "yes"])
    return open_topology(plan.redis, directory)
