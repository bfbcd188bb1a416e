"""The rolling restart itself: a cluster, a fleet, load, and one node after another stopped in order and started again.

Nodes, Redis and nginx are the processes of `scripts/up`. They are started and stopped from one thread beside the event
loop in which the devices live, and that for the whole run: a process dies with the thread that started it.
"""

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import httpx

from aip_cluster.constellation import ConstellationClient
from devtools.cluster import Cluster
from devtools.rolling.devices import LightDevice
from devtools.rolling.load import Load, Orders

__all__ = ["Outcome", "rolling_restart"]

STARTS_AT_ONCE = 50
ORDERED = 10
SETTLE_S = 2.0
BACK_S = 60.0


@dataclass
class Outcome:
    """What came of it."""

    devices: int
    accepted: int = 0
    ordered: int = 0
    refused: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    away_s: list[float] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    # Per node: exit code, seconds from SIGTERM to its end.
    stops: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """No failed dispatch, no lost session, everybody back, every node stopped in order."""
        in_order = all(code == 0 for code, _ in self.stops.values())
        return (
            not (self.refused or self.lost or self.gone)
            and in_order
            and bool(self.accepted and self.ordered and self.stops)
        )

    def __str__(self) -> str:
        lines = [f"{node} stopped with code {code} after {took_s:.1f} s" for node, (code, took_s) in self.stops.items()]
        away = "nobody was away"
        if self.away_s:
            median, most = statistics.median(self.away_s), max(self.away_s)
            away = f"away {len(self.away_s)} times: median {median:.2f} s, max {most:.2f} s"
        lines += [
            f"{self.devices} devices, {away}; not back: {len(self.gone)}",
            f"{self.accepted} dispatches accepted, {self.ordered} orders of a constellation completed",
            f"{len(self.refused)} failed, {len(self.lost)} lost",
            *(f"  failed: {text}" for text in self.refused[:10]),
            *(f"  lost: {text}" for text in self.lost[:10]),
        ]
        return "\n".join(lines)


async def rolling_restart(cluster: Cluster, *, devices: int, rate_per_s: float) -> Outcome:
    """Start `cluster`, restart every node of it under load, and stop it. Raises ScriptError if it does not start."""
    outcome = Outcome(devices)
    effects: Counter[str] = Counter()
    async with (
        _running(cluster) as in_thread,
        _http(cluster) as http,
        ConstellationClient(cluster.ws_url, name="rolling", api_key=cluster.plan.api_key) as constellation,
    ):
        fleet = [LightDevice(cluster.ws_url, f"light-{n}", cluster.plan.api_key, effects) for n in range(devices)]
        try:
            await _start(fleet)
            load = Load(http, [device.client_id for device in fleet], rate_per_s)
            orders = Orders(constellation, load.device_ids[:ORDERED])
            loading = asyncio.gather(load.run(), orders.run())
            await asyncio.sleep(SETTLE_S)
            for name in list(cluster.node_ids):
                began = time.monotonic()
                code = await in_thread(partial(cluster.stop_node, name))
                outcome.stops[name] = (code, time.monotonic() - began)
                await in_thread(partial(cluster.start_node, name))
                await asyncio.sleep(SETTLE_S)
            outcome.gone = await _not_back(fleet)
            loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loading
            outcome.lost = await load.lost(effects)
            outcome.lost += [f"{e}: carried out {effects[e]} times" for e in orders.completed if effects[e] != 1]
            outcome.accepted, outcome.ordered = len(load.accepted), len(orders.completed)
            outcome.refused = load.refused + orders.failed
            outcome.away_s = [s for device in fleet for s in device.away_s]
        finally:
            await asyncio.gather(*(device.stop() for device in fleet))
    return outcome


async def _start(fleet: list[LightDevice]) -> None:
    for first in range(0, len(fleet), STARTS_AT_ONCE):
        await asyncio.gather(*(device.start() for device in fleet[first : first + STARTS_AT_ONCE]))


async def _not_back(fleet: list[LightDevice]) -> list[str]:
    end = time.monotonic() + BACK_S
    while any(device.is_away for device in fleet) and time.monotonic() < end:  # noqa: ASYNC110 - a minute at most
        await asyncio.sleep(0.1)
    return [device.client_id for device in fleet if device.is_away]


@contextlib.asynccontextmanager
async def _running(cluster: Cluster) -> AsyncIterator[partial[asyncio.Future[int]]]:
    """The cluster up; what is yielded runs a call in the thread that its processes belong to."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        in_thread = partial(asyncio.get_running_loop().run_in_executor, thread)
        try:
            await in_thread(cluster.start)
            yield in_thread
        finally:
            await in_thread(cluster.stop)


@contextlib.asynccontextmanager
async def _http(cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"X-API-Key": cluster.plan.api_key} if cluster.plan.api_key else None
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=cluster.base_url, headers=headers, timeout=45.0, limits=limits, trust_env=False
    ) as http:
        yield http
