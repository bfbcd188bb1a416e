"""Devices by the hundred in one process: aip-device without its tools and its profile.

The socket, the backoff, the resume token, the outbox and the memory of answers are the product's own, so what is
measured here is what a fleet does. Each keeps the times at which it was registered nowhere.
"""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection

from aip_cluster.device.executor import Executor
from aip_cluster.device.files.receiver import FileReceiver
from aip_cluster.device.files.sender import FileSender
from aip_cluster.device.link import Link
from aip_cluster.device.origin import Origin
from aip_cluster.device.outbox import Outbox
from aip_cluster.device.profile import MARKERS
from aip_cluster.device.toolbox import ToolValue
from aip_cluster.device.wire import Wire
from aip_cluster.device.workspace import Workspace
from aip_cluster.protocol import Command

__all__ = ["LightDevice"]


class _Tool:
    """Every command takes `took_s` and gives back its parameters; each is noted by its `effect`."""

    def __init__(self, effects: Counter[str]) -> None:
        self._effects = effects

    async def call(self, command: Command, origin: Origin) -> ToolValue:  # noqa: ARG002
        parameters = command.parameters or {}
        self._effects[parameters["effect"]] += 1
        await asyncio.sleep(parameters.get("took_s", 0.0))
        return ToolValue(parameters, "light")


class _Profile:
    """Never changes."""

    def __init__(self, client_id: str) -> None:
        info = {"device_id": client_id, "platform": "linux", "supported_features": list(MARKERS)}
        self._metadata: dict[str, Any] = {"platform": "linux", "system_info": info}

    def published(self) -> tuple[int, dict[str, Any]]:
        return 1, self._metadata

    async def newer(self, version: int) -> tuple[int, dict[str, Any]]:
        await asyncio.Event().wait()
        return version, self._metadata

    async def fresh(self) -> dict[str, Any]:
        return self._metadata


class _WatchedLink(Link):
    """Says when it is registered and when it is no longer."""

    def watch(self, device: "LightDevice") -> None:
        self._device = device

    async def _serve(self, socket: ClientConnection, wire: Wire, version: int) -> None:
        self._device.arrived()
        try:
            await super()._serve(socket, wire, version)
        finally:
            self._device.left()


class LightDevice:
    """One device. `away_s`: how long it was registered nowhere, each time. `effects` counts what it carried out."""

    def __init__(self, url: str, client_id: str, api_key: str | None, effects: Counter[str]) -> None:
        self.client_id = client_id
        self.away_s: list[float] = []
        self._left_at: float | None = None
        outbox = Outbox()
        self._executor = Executor(_Tool(effects), client_id, outbox.put)
        self._link = _WatchedLink(
            url,
            client_id,
            handler=self._executor,
            outbox=outbox,
            profiles=_Profile(client_id),
            sender=FileSender(),
            receiver=FileReceiver(Workspace(Path("/nonexistent")), max_file_bytes=0),
            api_key=api_key,
        )
        self._link.watch(self)
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once it is registered."""
        self._running = asyncio.create_task(self._link.run(), name=self.client_id)
        await self._link.registered.wait()

    async def stop(self) -> None:
        """Leave with a close 1000. Safe to repeat."""
        if self._running is not None:
            await self._executor.close()
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def arrived(self) -> None:
        """It is registered."""
        if self._left_at is not None:
            self.away_s.append(time.monotonic() - self._left_at)
            self._left_at = None

    def left(self) -> None:
        """Its socket has ended."""
        self._left_at = time.monotonic()

    @property
    def is_away(self) -> bool:
        """Whether it is registered nowhere."""
        return self._left_at is not None
