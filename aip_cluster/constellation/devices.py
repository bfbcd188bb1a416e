"""Devices as a plan sees them: what the cluster lists, read with care, and whether one fits a task.

A device chose most of what its listing says: whatever is not of the right type counts as not said.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aip_cluster.constellation.errors import Problem
from aip_cluster.constellation.plan import Plan, Task

__all__ = ["Device", "device_problems", "why_unfit"]

LISTED_BOUND = 8


@dataclass(frozen=True, slots=True)
class Device:
    """A connected device. Memory is None where it is not known."""

    device_id: str
    platform: str = ""
    features: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    memory_total_gb: float | None = None
    memory_free_gb: float | None = None

    @classmethod
    def of(cls, listed: Mapping[str, Any]) -> "Device":
        """From an entry of `ConstellationClient.devices()`.

        Tags are those of the listing, of the profile, of its `system_info` and of `custom_metadata` in that.
        """
        profile = _mapping(listed.get("profile"))
        info = _mapping(profile.get("system_info"))
        memory = _mapping(profile.get("memory"))
        platform = listed.get("platform") or profile.get("platform") or info.get("platform")
        total = _number(memory.get("total_gb"))
        places = (listed, profile, info, _mapping(info.get("custom_metadata")))
        return cls(
            device_id=str(listed.get("client_id", "")),
            platform=platform.lower() if isinstance(platform, str) else "",
            features=_words(listed.get("features")) | _words(info.get("supported_features")),
            tags=frozenset[str]().union(*(_words(place.get("tags")) for place in places)),
            memory_total_gb=total if total is not None else _number(info.get("memory_total_gb")),
            memory_free_gb=_number(memory.get("available_gb")),
        )


def why_unfit(device: Device, task: Task) -> str | None:
    """What keeps a device from taking a task, None if it fits."""
    if task.device is not None:
        return None if device.device_id == task.device else f"is not {task.device!r}"
    needs = task.needs
    if needs is None:
        return None
    if needs.platform is not None and device.platform != needs.platform.lower():
        return f"platform is {device.platform or 'unknown'!r}"
    for word, wanted, had in (("tag", needs.tags, device.tags), ("feature", needs.features, device.features)):
        missing = [name for name in wanted if name not in had]
        if missing:
            return f"has no {word} {', '.join(map(repr, missing))}"
    for word, least, has in (
        ("total", needs.min_memory_total_gb, device.memory_total_gb),
        ("free", needs.min_memory_free_gb, device.memory_free_gb),
    ):
        if least is not None and (has is None or has < least):
            return f"{word} memory is {'unknown' if has is None else f'{has:g} GB'}"
    return None


def device_problems(plan: Plan, devices: Sequence[Device]) -> list[Problem]:
    """The tasks that no connected device fits."""
    known = sorted(device.device_id for device in devices)
    problems = []
    for task in plan.tasks:
        if task.device is not None:
            if task.device not in known:
                text = f"{task.device!r} is not connected; connected: {_listed(known)}"
                problems.append(Problem(task.id, "device", text))
            continue
        reasons = [(device.device_id, why_unfit(device, task)) for device in devices]
        if all(reason is not None for _, reason in reasons):
            listed = _listed([f"{name} ({reason})" for name, reason in sorted(reasons)])
            problems.append(Problem(task.id, "needs", f"no connected device fits: {listed}"))
    return problems


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = len(names) - LISTED_BOUND
    return ", ".join(names[:LISTED_BOUND]) + (f" and {more} more" if more > 0 else "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _words(value: Any) -> frozenset[str]:
    listed: Iterable[Any] = value if isinstance(value, list) else ()
    return frozenset(word for word in listed if isinstance(word, str))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
