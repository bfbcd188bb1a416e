"""Which differences between two profiles are worth telling the cluster, and which are flutter."""

from collections.abc import Mapping
from typing import Any

from aip_cluster.device.checks.bounded import failed

__all__ = ["meaningful_changes"]

SHARE = 0.10

# Numbers that never stand still: told when they have moved by a tenth of what was told last.
_MOVING = (("disk", "free_gb"), ("memory", "available_gb"))
_FIXED = (
    ("platform",),
    ("system_info",),
    ("cpu", "model"),
    ("cpu", "cores"),
    ("cpu", "threads"),
    ("memory", "total_gb"),
    ("disk", "path"),
    ("disk", "total_gb"),
    ("gpu",),
    ("network", "hostname"),
    ("network", "ip_address"),
    ("os", "version"),
    ("os", "build"),
    ("installed_apps",),
    ("mcp_servers",),
    ("tools",),
)


def meaningful_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The paths of what has changed so that others may decide otherwise. A check that failed tells nothing new."""
    changed = []
    for path in _FIXED:
        before, after = _at(old, path), _at(new, path)
        if before != after and not failed(new.get(path[0])):
            changed.append(".".join(path))
    for path in _MOVING:
        before, after = _at(old, path), _at(new, path)
        if after is not None and (before is None or abs(after - before) > SHARE * abs(before)):
            changed.append(".".join(path))
    return changed


def _at(profile: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = profile
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
