"""A contestant: some processes around a Redis, started for one measurement and gone after it.

All of its servers share the processors that are set aside for servers; Redis goes where the kernel puts it. A Redis and
processes of its own for every measurement mean that nobody inherits another's memory, or its garbage.
"""

import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from devtools.bench.connections import Address
from devtools.bench.errors import BenchError
from devtools.bench.fleet import Maker
from devtools.bench.processes import Usage, pin, usage
from devtools.bootstrap import ROOT
from devtools.outcome import Exit, ScriptError
from devtools.processes import Child, spawn, stop
from devtools.service import clean_environment
from devtools.topologies import Server, Single, TopologyError, free_port
from devtools.web import wait_until_ready

__all__ = ["HOST", "Contestant", "Program", "Running", "uvicorn"]

HOST = "127.0.0.1"
START_S = 45.0


@dataclass(frozen=True)
class Program:
    """One server: how it is started, and what it answers with 200 once it is ready."""

    name: str
    argv: Sequence[str]
    env: dict[str, str]
    port: int
    ready_path: str


@dataclass(frozen=True)
class Running:
    """A contestant that runs. `rest` takes dispatches, `sockets` take devices; `pids` are its servers' by name."""

    rest: Sequence[Address]
    sockets: Sequence[Address]
    delivers: bool
    completes: bool
    device: Maker
    pids: dict[str, int]
    redis: Server

    def cpu(self) -> Usage:
        """What its servers have used so far, Redis left out."""
        used = self.cpu_of_each()
        return Usage(sum(u.user_s for u in used), sum(u.system_s for u in used))

    def cpu_of_each(self) -> list[Usage]:
        """The same, in the order of `pids`."""
        return [usage(pid) for pid in self.pids.values()]

    def redis_cpu(self) -> Usage:
        """What its Redis has used so far."""
        return usage(self.redis.pid)


class Contestant:
    """`programs(redis_url, ports)` are the servers; the last takes REST, the first the sockets, unless `spread`."""

    def __init__(
        self,
        name: str,
        device: Maker,
        *,
        nodes: int = 2,
        delivers: bool = True,
        completes: bool = False,
        spread: bool = False,
    ) -> None:
        self.name = name
        self.nodes = nodes
        self._device = device
        self._delivers = delivers
        self._completes = completes
        self._spread = spread

    def programs(self, redis_url: str, ports: Sequence[int]) -> list[Program]:
        """What is started, one for each port."""
        raise NotImplementedError

    @contextlib.contextmanager
    def running(self, server_cpus: Sequence[int]) -> Iterator[Running]:
        """Runs as long as the context. Raises ScriptError, with the log that says why, if it does not start.

        A BenchError from within the context gets the contestant's name.
        """
        children: list[Child] = []
        with tempfile.TemporaryDirectory(prefix="aip-bench-") as name:
            redis = Single(Path(name, "redis"))
            try:
                _start_redis(redis)
                programs = self.programs(redis.url, [free_port() for _ in range(self.nodes)])
                children += [_start(program, Path(name)) for program in programs]
                for program, child in zip(programs, children, strict=True):
                    wait_until_ready(child, f"http://{HOST}:{program.port}{program.ready_path}", within_s=START_S)
                    pin(child.process.pid, server_cpus)
                yield self._described(programs, children, redis.primaries()[0])
            except BenchError as exc:
                raise BenchError(f"{self.name}: {exc}") from exc
            finally:
                # Nothing that they could lose is wanted any more.
                stop([child.process for child in children], hurry=lambda: True)
                for child in children:
                    child.handle.wait()
                redis.dispose()

    def _described(self, programs: Sequence[Program], children: Sequence[Child], redis: Server) -> Running:
        addresses = [Address(HOST, program.port) for program in programs]
        return Running(
            rest=addresses if self._spread else addresses[-1:],
            sockets=addresses if self._spread else addresses[:1],
            delivers=self._delivers,
            completes=self._completes,
            device=self._device,
            pids={child.process.name: child.process.pid for child in children},
            redis=redis,
        )


def uvicorn(name: str, app: str, port: int, redis_url: str) -> Program:
    """`app` on uvicorn with the parts that a node has, for the contestants that are no nodes."""
    argv = [sys.executable, "-m", "uvicorn", app, "--host", HOST, "--port", str(port), "--loop", "uvloop"]
    argv += ["--http", "httptools", "--ws", "websockets-sansio", "--no-access-log", "--log-level", "warning"]
    argv += ["--ws-per-message-deflate", "false", "--backlog", "4096"]
    env = clean_environment(PYTHONPATH=str(ROOT), BENCH_NODE=name, BENCH_REDIS_URL=redis_url)
    return Program(name, argv, env, port, "/livez")


def _start_redis(redis: Single) -> None:
    try:
        redis.start()
    except TopologyError as exc:
        raise ScriptError(Exit.MISSING, str(exc)) from None


def _start(program: Program, directory: Path) -> Child:
    log = directory / f"{program.name}.log"
    return spawn(program.name, program.argv, log=log, env=program.env, cwd=ROOT, die_with_parent=signal.Signals.SIGKILL)
