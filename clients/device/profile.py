"""What this machine is: the profile that a registration carries and that orchestrators choose devices by.

Everything is read from the system afresh on each call and nothing touches the network. What cannot be read here (no
boot time in a sandbox, no disk of that name) is null or left out rather than guessed.
"""

import os
import platform as system
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from aip import utc_now

__all__ = ["collect"]

_T = TypeVar("_T")

SCHEMA_VERSION = "1.0"
GIB = 1024**3
MAX_LISTED = 32

# Ours, not UFO's: a node may send commands right after the task, and may send one again without it running twice.
MARKERS = ("commands_without_echo", "deduplicates")

_BROWSERS = ("firefox", "chromium", "chromium-browser", "google-chrome", "microsoft-edge", "safari")
_OFFICES = ("soffice", "libreoffice")


def collect(
    device_id: str,
    *,
    platform: str,
    workdir: Path,
    mcp_servers: Sequence[Mapping[str, Any]],
    tools: Sequence[str],
) -> dict[str, Any]:
    """The profile as `metadata` of a registration. Blocks for some milliseconds; raises nothing of its own."""
    memory = psutil.virtual_memory()
    return {
        "platform": platform,
        "system_info": {
            "device_id": device_id,
            "platform": platform,
            "os_version": _os_name(),
            "cpu_count": os.cpu_count() or 1,
            "memory_total_gb": round(memory.total / GIB, 2),
            "hostname": socket.gethostname(),
            "ip_address": _ip_address(),
            "supported_features": [*_features(platform), *MARKERS],
            "platform_type": "mobile" if platform == "mobile" else "computer",
            "schema_version": SCHEMA_VERSION,
            "custom_metadata": {},
        },
        "cpu": _cpu(),
        "memory": {
            "total_gb": round(memory.total / GIB, 2),
            "available_gb": round(memory.available / GIB, 2),
            "used_percent": memory.percent,
        },
        "disk": _disk(workdir),
        "network": _network(),
        "os": {
            "name": _os_name(),
            "system": system.system(),
            "release": system.release(),
            "version": system.version(),
            "machine": system.machine(),
            "boot_time_s": _or_none(lambda: int(psutil.boot_time())),
            "python": system.python_version(),
        },
        "mcp_servers": [dict(server) for server in mcp_servers],
        "tools": list(tools),
        "registration_time": utc_now(),
    }


def _or_none(read: Callable[[], _T]) -> _T | None:
    """What `read` finds, or None where this system does not tell."""
    try:
        return read()
    except (OSError, RuntimeError, psutil.Error):
        return None


def _os_name() -> str:
    try:
        return system.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return system.version()


def _features(platform: str) -> list[str]:
    features = ["cli", "file_system"]
    if platform in {"linux", "darwin"}:
        features.append("linux_apps" if platform == "linux" else "macos_apps")
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        features.append("gui")
        if any(shutil.which(name) for name in _BROWSERS):
            features.append("browser")
    if any(shutil.which(name) for name in _OFFICES):
        features.append("office")
    return features


def _cpu() -> dict[str, Any]:
    described: dict[str, Any] = {
        "architecture": system.machine(),
        "logical_cores": psutil.cpu_count() or 1,
        "physical_cores": psutil.cpu_count(logical=False),
        "used_percent": psutil.cpu_percent(interval=None),
        "load_average": _or_none(lambda: [round(load, 2) for load in os.getloadavg()]),
    }
    # `platform.processor()` would start a process to find this out.
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                described["model"] = value.strip()
                break
    except OSError:
        pass
    return described


def _disk(workdir: Path) -> dict[str, Any]:
    try:
        usage = psutil.disk_usage(str(workdir))
    except OSError:
        return {}
    return {
        "path": str(workdir),
        "total_gb": round(usage.total / GIB, 2),
        "free_gb": round(usage.free / GIB, 2),
        "used_percent": usage.percent,
    }


def _addresses() -> list[dict[str, Any]]:
    """The interfaces that are up, with their addresses; the loopback last."""
    # Some sandboxes list interfaces and refuse to say more about them.
    up = _or_none(psutil.net_if_stats)
    interfaces = [
        {
            "name": name,
            "ipv4": [address.address for address in addresses if address.family == socket.AF_INET],
            "ipv6": [address.address for address in addresses if address.family == socket.AF_INET6],
        }
        for name, addresses in (_or_none(psutil.net_if_addrs) or {}).items()
        if up is None or (name in up and up[name].isup)
    ]
    return sorted(interfaces, key=lambda interface: "127.0.0.1" in interface["ipv4"])


def _network() -> dict[str, Any]:
    return {"hostname": socket.gethostname(), "interfaces": _addresses()[:MAX_LISTED]}


def _ip_address() -> str:
    return next((address for interface in _addresses() for address in interface["ipv4"]), "127.0.0.1")
