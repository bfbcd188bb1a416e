"""A real cluster with something to do, and a real Prometheus that looks on: what dashboards are tried on.

Two nodes on a Redis of their own, devices on both, tasks over REST to both, refusals among them, and tasks that a model
plans. The load is that of `scripts/bench`; the model is a scripted endpoint.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from devtools.bench.connections import open_http
from devtools.bench.contestants import Running, cluster
from devtools.bench.contestants.base import HOST
from devtools.bench.errors import BenchError
from devtools.bench.fleet import AipDevice, Fleet
from devtools.bench.load import steady, verify
from devtools.dashboards.prometheus import Prometheus
from devtools.model_server import ModelServer, Question, Reply

__all__ = ["LABELS", "Observed", "Phase", "observed"]

# As a Prometheus in Kubernetes would have them.
LABELS = {"cluster": "lab", "namespace": "aip", "job": "aip-cluster"}
SETTINGS = {"llm_model": "scripted", "log_level": "WARNING"}
HEARTBEAT_S = 5.0
ODD_EVERY_S = 0.5
# Before anything happens every node has been scraped so often: rates have something to begin with.
SCRAPES = 3
SCRAPED_S = 30.0


@dataclass(frozen=True)
class Phase:
    """So many tasks per second for so long; before that, so many devices more."""

    rate_per_s: float
    seconds: float
    devices: int = 0


@dataclass(frozen=True)
class Observed:
    """A run that is over, and the Prometheus that saw it; times are seconds since the epoch."""

    prometheus: Prometheus
    instances: Sequence[str]
    since: float
    until: float


class _Model(ModelServer):
    """Answers every question at once, in words."""

    def next_answer(self, question: Question) -> Reply:  # noqa: ARG002
        return Reply(text="done")


class _Planned(AipDevice):
    """A device that has a tool and is never told to use it: for tasks that a model plans, and ends at once."""

    __slots__ = ()

    def on_open(self) -> None:
        info = {"device_id": self.client_id, "platform": "linux", "supported_features": ["commands_without_echo"]}
        metadata = {
            "platform": "linux",
            "system_info": info,
            "tools": [{"tool_name": "look", "tool_type": "data_collection"}],
        }
        said = {"type": "register", "status": "ok", "client_id": self.client_id, "client_type": "device"}
        self.send(orjson.dumps(said | {"metadata": metadata}))

    def on_text(self, message: bytes) -> None:
        if not self.registered.done():
            super().on_text(message)


@contextlib.asynccontextmanager
async def observed(directory: Path, phases: Sequence[Phase]) -> AsyncIterator[Observed]:
    """Runs everything through the phases, then hands over what was seen; Prometheus answers while the context lasts.

    Raises ScriptError if something does not start, BenchError if a task is lost.
    """
    async with _Model() as model:
        settings = SETTINGS | {"llm_base_url": model.url}
        with cluster(2, settings, spread=True).running(()) as running:
            instances = [f"{HOST}:{address.port}" for address in running.rest]
            with Prometheus.running(directory, instances, LABELS) as prometheus:
                await _scraped(prometheus, len(instances))
                since = time.time()
                await _work(running, phases)
                yield Observed(prometheus, instances, since, time.time())


async def _scraped(prometheus: Prometheus, instances: int) -> None:
    """Returns once Prometheus knows every node. Raises BenchError if it takes long."""
    deadline = time.monotonic() + SCRAPED_S
    scraped = f"count_over_time(aip_ready[1m]) >= {SCRAPES}"
    while len(prometheus.query(scraped, time.time())) < instances:
        if time.monotonic() > deadline:
            raise BenchError(f"Prometheus had not read every node after {SCRAPED_S:g} s")
        await asyncio.sleep(0.2)


async def _work(running: Running, phases: Sequence[Phase]) -> None:
    fleet = Fleet(running.sockets, AipDevice)
    planned = Fleet(running.sockets, _Planned, prefix="planned")
    try:
        await planned.arrive(len(running.sockets), at_once=2)
        async with fleet.beating(HEARTBEAT_S), asyncio.TaskGroup() as group:
            beside = [group.create_task(_odd_requests(running, name)) for name in planned.names]
            for phase in phases:
                if phase.devices:
                    await fleet.arrive(phase.devices, at_once=10)
                await verify(running, await steady(running, fleet, rate_per_s=phase.rate_per_s, seconds=phase.seconds))
            for task in beside:
                task.cancel()
    except ExceptionGroup as errors:
        raise BenchError(str(errors.exceptions[0])) from errors
    finally:
        await fleet.leave()
        await planned.leave()


async def _odd_requests(running: Running, device: str) -> None:
    """Again and again, to each node: a task for the model to plan, one for nobody, and who is there."""
    connections = [await open_http(address) for address in running.rest]
    try:
        for number in itertools.count():
            for place, connection in enumerate(connections):
                task = {"client_id": device, "request": "how much is there", "planner": "llm"}
                task["task_name"] = f"{device}-{place}-{number}"
                await connection.post(b"/api/dispatch", orjson.dumps(task))
                await connection.post(b"/api/dispatch", orjson.dumps({"client_id": "nobody", "request": "anything"}))
                await connection.get("/api/clients")
            await asyncio.sleep(ODD_EVERY_S)
    finally:
        for connection in connections:
            connection.close()
