"""What a device's link is between: who takes what comes, whose profile it publishes, and how long it runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from aip_cluster.device.link import Link
from aip_cluster.protocol import ServerMessage


class Handler:
    def __init__(self) -> None:
        self.submitted: asyncio.Queue[ServerMessage] = asyncio.Queue()
        self.ended: asyncio.Queue[str | None] = asyncio.Queue()

    def submit(self, message: ServerMessage) -> None:
        self.submitted.put_nowait(message)

    def end_session(self, session_id: str | None) -> None:
        self.ended.put_nowait(session_id)


class Profiles:
    """Version after version, as the test says."""

    def __init__(self) -> None:
        self.version = 1
        self._changed = asyncio.Event()

    def change(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def published(self) -> tuple[int, dict[str, Any]]:
        return self.version, {"version": self.version}

    async def newer(self, version: int) -> tuple[int, dict[str, Any]]:
        while self.version <= version:
            await self._changed.wait()
        return self.published()

    async def fresh(self) -> dict[str, Any]:
        return {"fresh": True}


@asynccontextmanager
async def running(link: Link) -> AsyncIterator[None]:
    """The link runs for as long as the context lasts."""
    task = asyncio.create_task(link.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
