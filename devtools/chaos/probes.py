"""Who watches a run from outside: a user who reads through nginx all the time, and the memory of the nodes."""

import asyncio
import contextlib
from dataclasses import dataclass, field

import httpx
import psutil

from devtools.chaos.cluster import ClusterUnderTest
from devtools.chaos.ledger import Ledger
from devtools.chaos.outages import Gauge

__all__ = ["MemoryWatch", "probe_reads"]

READ_EVERY_S = 0.1
READ_S = 10.0
MEMORY_EVERY_S = 0.5


async def probe_reads(cluster: ClusterUnderTest, ledger: Ledger, gauge: Gauge, until: asyncio.Event) -> None:
    """Read through nginx, one request after the other, until `until` is set."""
    async with httpx.AsyncClient(timeout=READ_S, trust_env=False) as http:
        while not until.is_set():
            began_s = ledger.now_s
            try:
                answer = await http.get(f"{cluster.front_url}/api/nodes")
                served = answer.status_code == 200
                what = str(answer.status_code)
            except httpx.HTTPError as exc:
                served, what = False, type(exc).__name__
            ledger.count(f"probe: {what}")
            gauge.note(began_s, ledger.now_s, served=served)
            await asyncio.sleep(READ_EVERY_S)


@dataclass(slots=True)
class MemoryWatch:
    """The largest resident memory of each node, in bytes, over all its lives."""

    cluster: ClusterUnderTest
    largest: dict[str, int] = field(default_factory=dict)

    async def run(self, until: asyncio.Event) -> None:
        """Look until `until` is set."""
        while not until.is_set():
            for name, node in self.cluster.nodes.items():
                with contextlib.suppress(psutil.NoSuchProcess):
                    resident = psutil.Process(node.pid).memory_info().rss if node.alive else 0
                    self.largest[name] = max(self.largest.get(name, 0), resident)
            await asyncio.sleep(MEMORY_EVERY_S)
