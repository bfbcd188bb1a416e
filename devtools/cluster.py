"""What a cluster on one machine consists of: its ports, its commands, when each part is ready, and cluster.json.

Everything listens on the loopback interface: nginx on the base port, node k on base + k, Redis on base + 100.
"""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from devtools.bootstrap import ROOT, VENV
from devtools.demo import DEVICE_ID
from devtools.front import write_config
from devtools.outcome import Exit, ScriptError, say
from devtools.processes import Child, current, describe_exit, remember, spawn, stop
from devtools.servers import Servers
from devtools.web import Unreachable, ask, ping_redis

__all__ = ["CLUSTER_JSON", "MAX_NODES", "Cluster", "Plan"]

HOST = "127.0.0.1"
REDIS_OFFSET = 100
MAX_NODES = REDIS_OFFSET - 1
CLUSTER_JSON = "cluster.json"
READY_PATIENCE_S = 45.0


@dataclass(frozen=True)
class Plan:
    """What was asked for on the command line."""

    nodes: int
    base_port: int
    run_dir: Path
    redis_url: str | None
    demo: bool
    detach: bool

    @property
    def api_key(self) -> str | None:
        return os.environ.get("AIP_API_KEY")

    def ports(self, servers: Servers) -> dict[str, int]:
        """Every port that will be listened on, by the name of its process."""
        ports = {f"node-{number}": self.base_port + number for number in range(1, self.nodes + 1)}
        if servers.nginx:
            ports["nginx"] = self.base_port
        if self.redis_url is None:
            ports["redis"] = self.base_port + REDIS_OFFSET
        return ports


@dataclass
class Cluster:
    """The processes, in the order in which they were started. `check` is called while waiting, and may raise."""

    plan: Plan
    servers: Servers
    check: Callable[[], None]
    children: list[Child] = field(default_factory=list)
    node_ids: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ports = self.plan.ports(self.servers)
        self.logs = self.plan.run_dir / "logs"
        front = self.ports.get("nginx", self.ports["node-1"])
        self.base_url = f"http://{HOST}:{front}"
        self.ws_url = f"ws://{HOST}:{front}/ws"
        self.redis_url = self.plan.redis_url or f"redis://{HOST}:{self.ports['redis']}/0"

    def start(self) -> None:
        """Starts everything and returns when it is ready. Raises ScriptError; what was started stays for `stop`."""
        self._claim_ports()
        self.logs.mkdir(parents=True, exist_ok=True)
        self._start_redis()
        for name in self.ports:
            if name.startswith("node-"):
                self._start_node(name)
        for child in [child for child in self.children if child.process.kind == "node"]:
            self._await_node(child)
        if self.servers.nginx:
            self._start_nginx(self.servers.nginx)
        if self.plan.demo:
            self._start_device()

    def write_json(self) -> None:
        """Says to other programs where the cluster is; only its owner may read it, Redis may have a password."""
        nodes = [
            {
                "id": self.node_ids[child.process.name],
                "url": self.url(child.process.name),
                "ws_url": f"ws://{HOST}:{self.ports[child.process.name]}/ws",
                "pid": child.process.pid,
            }
            for child in self.children
            if child.process.kind == "node"
        ]
        content = {
            "base_url": self.base_url,
            "ws_url": self.ws_url,
            "redis_url": self.redis_url,
            "nodes": nodes,
            "pids": {child.process.name: child.process.pid for child in self.children},
        }
        new = self.plan.run_dir / f"{CLUSTER_JSON}.new"
        new.touch(mode=0o600)
        new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        new.replace(self.plan.run_dir / CLUSTER_JSON)

    def url(self, name: str) -> str:
        """Where a node is reached directly."""
        return f"http://{HOST}:{self.ports[name]}"

    def dead(self) -> list[Child]:
        """Children that have ended since the last call; they are no part of the cluster any more."""
        gone = [child for child in self.children if child.handle.poll() is not None]
        self.children = [child for child in self.children if child not in gone]
        return gone

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> list[str]:
        """Stops everything, as `processes.stop` does; returns the names of those that had to be killed."""
        killed = stop([child.process for child in self.children], hurry=hurry)
        for child in self.children:
            with suppress(subprocess.TimeoutExpired):
                child.handle.wait(timeout=1)
        return killed

    def stop_node(self, name: str) -> int:
        """Stops a node in order and returns its exit code."""
        child = next(child for child in self.children if child.process.name == name)
        stop([child.process])
        self.children.remove(child)
        self.record()
        return child.handle.wait()

    def start_node(self, name: str) -> None:
        """Starts a node that was stopped, and returns when it is ready. Raises ScriptError."""
        self._start_node(name)
        self._await_node(self.children[-1])

    def record(self, *, supervised: bool = True) -> None:
        """Writes down what runs: this process first, as long as it looks after the others."""
        processes = [child.process for child in self.children]
        remember(self.plan.run_dir, [current("up"), *processes] if supervised else processes)

    def _claim_ports(self) -> None:
        for name, port in sorted(self.ports.items(), key=lambda item: item[1]):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError as exc:
                    raise ScriptError(
                        Exit.PORT_IN_USE,
                        f"port {port}, meant for {name}, cannot be used ({exc.strerror}); "
                        "choose others with --base-port",
                    ) from None

    def _spawn(self, name: str, command: list[str], env: dict[str, str], on_parent_death: signal.Signals) -> Child:
        log = self.logs / f"{name}.log"
        try:
            die_with_parent = None if self.plan.detach else on_parent_death
            child = spawn(name, command, log=log, env=env, cwd=ROOT, die_with_parent=die_with_parent)
        except OSError as exc:
            raise ScriptError(Exit.MISSING, f"{name} cannot be started: {exc}") from None
        self.children.append(child)
        self.record()
        return child

    def _await(self, child: Child | None, name: str, probe: Callable[[], None]) -> None:
        """Calls `probe` until it does not raise Unreachable."""
        deadline = time.monotonic() + READY_PATIENCE_S
        while True:
            self.check()
            for gone in self.dead():
                how = describe_exit(gone.handle.returncode)
                raise ScriptError(Exit.NOT_READY, f"{gone.process.name} {how} while starting", gone.log)
            try:
                return probe()
            except Unreachable as exc:
                if time.monotonic() > deadline:
                    text = f"{name} was not ready after {READY_PATIENCE_S:.0f} s: {exc}"
                    raise ScriptError(Exit.NOT_READY, text, child.log if child else None) from None
            time.sleep(0.05)

    def _start_redis(self) -> None:
        parts = urlsplit(self.redis_url)
        shown = re.sub(r"//.*@", "//", self.redis_url)
        child = None
        if self.plan.redis_url is None:
            data = self.plan.run_dir / "redis"
            data.mkdir(exist_ok=True)
            command = [str(self.servers.redis), "--bind", HOST, "--port", str(self.ports["redis"])]
            command += ["--dir", str(data), "--save", "", "--appendonly", "no"]
            # Compact sessions (docs/REDIS.md), by the name that every version of Redis knows.
            command += ["--maxmemory-policy", "noeviction", "--hash-max-ziplist-value", "1024", "--daemonize", "no"]
            child = self._spawn("redis", command, dict(os.environ), signal.SIGKILL)
        if parts.scheme == "redis":
            host, port = parts.hostname or HOST, parts.port or 6379
            self._await(child, f"Redis at {shown}", lambda: ping_redis(host, port))
        say(f"{'redis':<10} {shown}" + ("" if child else "  (not ours)"))

    def _start_node(self, name: str) -> None:
        command = [str(VENV / "bin" / "aip-node"), "--host", HOST, "--port", str(self.ports[name])]
        # The URL may hold a password: in the environment it is not in the list of processes.
        env = self._env(lambda variable: not variable.startswith("AIP_TEST_")) | {"AIP_REDIS_URL": self.redis_url}
        self._spawn(name, [*command, "--node-id", name], env, signal.SIGKILL)

    def _await_node(self, child: Child) -> None:
        name = child.process.name

        def probe() -> None:
            ready = ask("GET", f"{self.url(name)}/readyz")
            if ready.status != 200:
                raise Unreachable(f"/readyz says {ready}")
            health = ask("GET", f"{self.url(name)}/api/health")
            if health.status != 200 or not isinstance(health.body, dict) or "node_id" not in health.body:
                raise Unreachable(f"/api/health says {health}")
            self.node_ids[name] = str(health.body["node_id"])

        self._await(child, name, probe)
        say(f"{name:<10} {self.url(name)}  ({self.node_ids[name]})")

    def _start_nginx(self, program: Path) -> None:
        nodes = [f"{HOST}:{self.ports[name]}" for name in self.node_ids]
        config = write_config(self.plan.run_dir, self.logs, nodes, f"{HOST}:{self.ports['nginx']}")
        command = [str(program), "-p", str(config.parent), "-c", str(config), "-e", "stderr", "-g", "daemon off;"]
        # Not SIGKILL: the master would leave its workers behind.
        child = self._spawn("nginx", command, dict(os.environ), signal.SIGTERM)

        def probe() -> None:
            answer = ask("GET", f"{self.base_url}/api/health")
            if answer.status != 200:
                raise Unreachable(f"/api/health says {answer}")

        self._await(child, "nginx", probe)
        say(f"{'nginx':<10} {self.base_url}")

    def _start_device(self) -> None:
        workdir = self.plan.run_dir / "device"
        workdir.mkdir(exist_ok=True)
        command = [str(VENV / "bin" / "aip-device"), "start", "--server", self.ws_url]
        # The key and nothing else: other settings of a device are for the one that its owner runs.
        env = self._env(lambda variable: variable == "AIP_API_KEY")
        child = self._spawn("device", [*command, "--id", DEVICE_ID, "--workdir", str(workdir)], env, signal.SIGTERM)

        def probe() -> None:
            answer = ask("GET", f"{self.base_url}/api/clients", api_key=self.plan.api_key)
            if answer.status != 200 or DEVICE_ID not in json.dumps(answer.body):
                raise Unreachable(f"/api/clients says {answer}")

        self._await(child, DEVICE_ID, probe)
        say(f"{'device':<10} {DEVICE_ID}")

    def _env(self, keep: Callable[[str], bool]) -> dict[str, str]:
        """This environment with those of the AIP_* variables that `keep` accepts, and no proxy for loopback."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("AIP_") or keep(key)}
        for name in ("NO_PROXY", "no_proxy"):
            env[name] = ",".join(filter(None, [env.get(name), HOST, "localhost"]))
        return env
