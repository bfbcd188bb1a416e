"""What this device is: the profile that a registration carries and that orchestrators choose devices by.

The machine's part comes from checks, run at the start and again every `refresh_s`; the tools' part is always that of
the moment. `published` is the profile that the cluster should have: it is replaced, and its version raised, when
something changes that others may decide by (see `changes`), not on every flutter.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import orjson

from aip_cluster.device.changes import meaningful_changes
from aip_cluster.device.checks.bounded import BoundedChecks, Check, failed
from aip_cluster.device.checks.hardware import cpu, disk, gpu, memory
from aip_cluster.device.checks.network import network
from aip_cluster.device.checks.software import features, installed_apps, operating_system
from aip_cluster.protocol import utc_now
from aip_cluster.protocol.features import DEDUPLICATES, FILES, NO_ECHO, QUALIFIED_TOOLS, RESUME

__all__ = ["Identity", "Inventory", "Profiler", "standard_checks"]

logger = logging.getLogger(__name__)

SCHEMA_VERSION = "1.0"
MAX_TOOLS_BYTES = 64 * 1024

# Ours, not UFO's: a node may send commands right after the task, may send one again without it running twice, may send
# and be sent files, may call tools as `namespace.tool`, and may give a token with which a new socket takes the place of
# a broken one.
MARKERS = (NO_ECHO, DEDUPLICATES, FILES, QUALIFIED_TOOLS, RESUME)

# These start programs or read long files: only at the start and on a refresh, not for everyone who asks.
_SLOW = frozenset({"gpu", "installed_apps"})


class Identity(Protocol):
    """What the operator says about the device."""

    @property
    def device_id(self) -> str: ...
    @property
    def platform(self) -> str: ...
    @property
    def workdir(self) -> Path: ...
    @property
    def tags(self) -> Sequence[str]: ...
    @property
    def custom_metadata(self) -> Mapping[str, Any]: ...


class Inventory(Protocol):
    """What the device offers just now."""

    def names(self) -> list[str]:
        """The tools by the shortest name that calls them."""

    def servers(self) -> list[dict[str, Any]]:
        """The MCP servers, connected or not."""

    def list_tools(self) -> list[dict[str, Any]]:
        """The tools in full."""


def standard_checks(platform: str, workdir: Path) -> dict[str, Check]:
    """The self-checks of a device, by the section of the profile that they fill."""
    return {
        "cpu": cpu,
        "memory": memory,
        "disk": partial(disk, workdir),
        "gpu": gpu,
        "network": network,
        "os": partial(operating_system, platform),
        "installed_apps": installed_apps,
    }


class Profiler:
    """Keeps the profile. `start` first; then `run` for as long as it shall be kept fresh."""

    def __init__(
        self,
        identity: Identity,
        inventory: Inventory,
        *,
        refresh_s: float = 300.0,
        checks: Mapping[str, Check] | None = None,
    ) -> None:
        self._identity = identity
        self._inventory = inventory
        self._refresh_s = refresh_s
        self._checks = BoundedChecks(checks or standard_checks(identity.platform, identity.workdir))
        self._sections: dict[str, Any] = {}
        # The last of each section that was no failure: the summary is made from these.
        self._known: dict[str, Any] = {}
        self._published: dict[str, Any] = {}
        self._version = 0
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Run all checks once. Takes some seconds at most; raises nothing of its own."""
        await self.refresh()

    async def run(self) -> None:
        """Refresh for ever."""
        while True:
            await asyncio.sleep(self._refresh_s)
            await self.refresh()

    async def refresh(self) -> None:
        """Run all checks again."""
        self._sections = await self._checks.run()
        self._consider()

    def tools_changed(self) -> None:
        """Tools came, went or changed: takes effect at once."""
        if self._version:
            self._consider()

    def published(self) -> tuple[int, dict[str, Any]]:
        """The version and the profile that the cluster should have."""
        return self._version, {**self._published, "registration_time": utc_now()}

    async def newer(self, version: int) -> tuple[int, dict[str, Any]]:
        """As `published`, once it is newer than `version`. Cancelling is safe."""
        while self._version <= version:
            await self._changed.wait()
        return self.published()

    async def fresh(self) -> dict[str, Any]:
        """The profile of this moment, the slow checks from the last refresh."""
        quick = await self._checks.run(set(self._sections) - _SLOW)
        return self._assemble({**self._sections, **quick})

    async def summary(self) -> dict[str, Any]:
        """As `fresh`, with the tools by name only: for a model to read."""
        profile = await self.fresh()
        return {**profile, "tools": self._inventory.names()}

    def _consider(self) -> None:
        profile = self._assemble(self._sections)
        changes = meaningful_changes(self._published, profile)
        if self._version and not changes:
            return
        if self._version:
            logger.info("the profile has changed: %s", ", ".join(changes))
        self._published = profile
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def _assemble(self, sections: Mapping[str, Any]) -> dict[str, Any]:
        self._known |= {name: found for name, found in sections.items() if not failed(found)}
        servers = self._inventory.servers()
        return {
            "platform": self._identity.platform,
            "system_info": self._system_info(self._known),
            **sections,
            "mcp_servers": [server["namespace"] for server in servers if server["connected"]],
            "mcp_status": servers,
            "tools": self._tools(),
            "registration_time": utc_now(),
        }

    def _system_info(self, sections: Mapping[str, Any]) -> dict[str, Any]:
        """UFO's summary. It wants a value in every field, so a failed check gives the least that can be true."""
        identity = self._identity
        described = {
            "device_id": identity.device_id,
            "platform": identity.platform,
            "os_version": _found(sections, "os", "name", ""),
            "cpu_count": _found(sections, "cpu", "threads", 1),
            "memory_total_gb": _found(sections, "memory", "total_gb", 0.0),
            "hostname": _found(sections, "network", "hostname", ""),
            "ip_address": _found(sections, "network", "ip_address", "127.0.0.1"),
            "supported_features": [*features(identity.platform), *MARKERS],
            "platform_type": "mobile" if identity.platform == "mobile" else "computer",
            "schema_version": SCHEMA_VERSION,
            "custom_metadata": dict(identity.custom_metadata),
        }
        return {**described, "tags": list(identity.tags)} if identity.tags else described

    def _tools(self) -> list[Any]:
        """The tools in full, if that is not too much for a registration, else their names."""
        described = self._inventory.list_tools()
        try:
            if len(orjson.dumps(described)) < MAX_TOOLS_BYTES:
                return described
        except (TypeError, ValueError, RecursionError) as exc:
            logger.warning("the tools' descriptions cannot travel: %s", exc)
        return self._inventory.names()


def _found(sections: Mapping[str, Any], section: str, name: str, otherwise: Any) -> Any:
    found = sections.get(section)
    value = found.get(name) if isinstance(found, Mapping) else None
    return otherwise if value is None else value
