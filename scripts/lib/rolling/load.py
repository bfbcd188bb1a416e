"""Steady dispatch through the front, each task sent once and read back at the end."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

__all__ = ["Load"]

# Some steps are over before anybody could be asked to move, some are not.
TOOK_S = (0.0, 0.05, 0.5, 2.0)
READS_AT_ONCE = 20
END_PATIENCE_S = 60.0


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
