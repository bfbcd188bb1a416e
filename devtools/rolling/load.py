"""What is asked of the fleet through the front: steady dispatch over REST, and an orchestrator's tasks over sockets.

Each task is sent once. Those of REST are read back at the end, those of the orchestrator are waited for.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from aip_cluster.constellation import ConstellationClient, ConstellationError

__all__ = ["Load", "Orders"]

# Some steps are over before anybody could be asked to move, some are not.
TOOK_S = (0.0, 0.05, 0.5, 2.0)
READS_AT_ONCE = 20
END_PATIENCE_S = 60.0
FAILED_PAUSE_S = 0.5


@dataclass
class Load:
    """Dispatches `rate_per_s` tasks to random devices until cancelled.

    `refused`: dispatches that were not answered with 200, and how. Nothing is repeated: the promise is that nobody
    needs to.
    """

    http: httpx.AsyncClient
    device_ids: Sequence[str]
    rate_per_s: float
    accepted: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    _sent: int = 0

    async def run(self) -> None:
        """Dispatch, at a steady pace whatever the answers take."""
        async with asyncio.TaskGroup() as sending:
            while True:
                self._sent += 1
                sending.create_task(self._dispatch(f"effect-{self._sent}"))
                await asyncio.sleep(1 / self.rate_per_s)

    async def _dispatch(self, effect: str) -> None:
        body = {
            "client_id": random.choice(self.device_ids),  # noqa: S311 - no secret
            "request": "a step of the rolling restart",
            "timeout_s": 60,
            "commands": [
                {"tool_name": "work", "parameters": {"effect": effect, "took_s": random.choice(TOOK_S)}}  # noqa: S311
            ],
        }
        try:
            answer = await self.http.post("/api/dispatch", json=body)
        except httpx.HTTPError as exc:
            self.refused.append(f"{effect}: {exc!r}")
            return
        if answer.status_code == 200:
            self.accepted[answer.json()["session_id"]] = effect
        else:
            self.refused.append(f"{effect}: {answer.status_code} {answer.text[:200]}")

    async def lost(self, effects: Counter[str]) -> list[str]:
        """Accepted tasks that did not complete, or were carried out more or less than once, and why."""
        gate = asyncio.Semaphore(READS_AT_ONCE)
        found = await asyncio.gather(*(self._trouble(s, e, effects, gate) for s, e in self.accepted.items()))
        return [trouble for trouble in found if trouble]

    async def _trouble(self, session_id: str, effect: str, effects: Counter[str], gate: asyncio.Semaphore) -> str:
        async with gate:
            session = await self._ended(session_id)
        if session.get("state") != "completed":
            return f"{session_id} on {session.get('client_id')}: {session.get('state')}, {session.get('error')}"
        return "" if effects[effect] == 1 else f"{session_id}: carried out {effects[effect]} times"

    async def _ended(self, session_id: str) -> dict[str, Any]:
        end = asyncio.get_running_loop().time() + END_PATIENCE_S
        while True:
            answer = await self.http.get(f"/api/sessions/{session_id}")
            session: dict[str, Any] = answer.json() if answer.is_success else {"error": answer.text[:200]}
            over = session.get("state") in {"completed", "failed", "cancelled", "timed_out"}
            if over or asyncio.get_running_loop().time() > end:
                return session
            await asyncio.sleep(0.2)


@dataclass
class Orders:
    """An orchestrator that runs one task after another on each of `device_ids` until cancelled."""

    client: ConstellationClient
    device_ids: Sequence[str]
    completed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Order, and order again."""
        async with asyncio.TaskGroup() as ordering:
            for device_id in self.device_ids:
                ordering.create_task(self._keep_busy(device_id))

    async def _keep_busy(self, device_id: str) -> None:
        for number in itertools.count(1):
            effect = f"order-{device_id}-{number}"
            parameters = {"effect": effect, "took_s": random.choice(TOOK_S)}  # noqa: S311 - no secret
            try:
                result = await self.client.run(
                    device_id, "an order", timeout_s=60, commands=[{"tool_name": "work", "parameters": parameters}]
                )
            except ConstellationError as exc:
                self.failed.append(f"{effect}: {exc!r}")
                # One that can run nothing must not fill the memory with that.
                await asyncio.sleep(FAILED_PAUSE_S)
            else:
                (self.completed if result.succeeded else self.failed).append(
                    effect if result.succeeded else f"{effect}: {result.status}, {result.error}"
                )
