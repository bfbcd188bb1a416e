"""What a fault test counts."""

import asyncio
import time
from collections import Counter

import httpx

from tests.integration.harness.cluster import Cluster, command
from tests.integration.harness.guests import unique
from tests.integration.harness.patience import eventually

__all__ = ["Load"]

ECHO = command("echo", text="hello")


class Load:
    """Dispatches one task after another to a device through changing nodes, and remembers what was accepted."""

    def __init__(self, cluster: Cluster, client_id: str) -> None:
        self._cluster = cluster
        self._client_id = client_id
        self._stop = False
        self._task: asyncio.Task[None] | None = None
        self.accepted: list[str] = []
        self.refused: Counter[str] = Counter()
        self.longest_gap_s = 0.0

    async def __aenter__(self) -> "Load":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stop = True
        assert self._task is not None
        await self._task

    async def _run(self) -> None:
        last = time.monotonic()
        turn = 0
        while not self._stop:
            turn += 1
            node = self._cluster.nodes[turn % len(self._cluster.nodes)]
            name = unique("task")
            try:
                answer = await node.try_dispatch(self._client_id, ECHO, task_name=name)
            except httpx.TransportError as exc:
                self.refused[type(exc).__name__] += 1
                continue
            if answer.status_code == 200:
                self.accepted.append(name)
                self.longest_gap_s = max(self.longest_gap_s, time.monotonic() - last)
                last = time.monotonic()
            else:
                self.refused[f"{answer.status_code} {answer.json().get('detail', '')[:90]}"] += 1
            await asyncio.sleep(0.02)

    async def goes_on(self) -> None:
        """Wait until tasks are accepted again."""
        before = len(self.accepted)
        await eventually(lambda: len(self.accepted) > before + 5, "tasks are accepted again", within_s=30)

    async def states(self, begin: int = 0, end: int | None = None) -> Counter[str]:
        """What became of those accepted (from number `begin`, before number `end`): their state; `lost` where nobody
        knows them any more; `pending` where the end of it was lost, which their deadline will make good."""
        found: Counter[str] = Counter()
        for name in self.accepted[begin:end]:
            answer = await self._cluster.nodes[0].get(f"/api/task_result/{name}", wait=20)
            found["lost" if answer.status_code == 404 else str(answer.json().get("state") or "pending")] += 1
        return found
