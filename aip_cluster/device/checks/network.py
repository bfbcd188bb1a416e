"""The machine's names and addresses, read from the system: nothing is sent anywhere."""

import socket
from typing import Any

import psutil

__all__ = ["network"]

MAX_INTERFACES = 32


def network() -> dict[str, Any]:
    """Host name, the address that others would use, the speed of its interface where known, and all interfaces."""
    interfaces = _interfaces()[:MAX_INTERFACES]
    first = next((interface for interface in interfaces if interface["ipv4"]), None)
    return {
        "hostname": socket.gethostname(),
        "ip_address": first["ipv4"][0] if first is not None else "127.0.0.1",
        "bandwidth_mbps": first["speed_mbps"] if first is not None else None,
        "interfaces": interfaces,
    }


def _interfaces() -> list[dict[str, Any]]:
    """The interfaces that are up, with their addresses; the loopback last."""
    try:
        stats = psutil.net_if_stats()
    except (OSError, RuntimeError, psutil.Error):
        # Some sandboxes list interfaces and refuse to say more about them.
        stats = None
    interfaces = [
        {
            "name": name,
            "ipv4": [address.address for address in addresses if address.family == socket.AF_INET],
            "ipv6": [address.address for address in addresses if address.family == socket.AF_INET6],
            "speed_mbps": (stats[name].speed or None) if stats is not None else None,
        }
        for name, addresses in psutil.net_if_addrs().items()
        if stats is None or (name in stats and stats[name].isup)
    ]
    return sorted(interfaces, key=lambda interface: "127.0.0.1" in interface["ipv4"])
