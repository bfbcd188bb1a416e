"""What operators say of devices: tags and custom metadata, from a YAML file.

    devices:
      build-host-7: {tags: [build, eu], custom_metadata: {owner: infra}}
      "kiosk-*": {tags: [kiosk]}

A name may hold wildcards; every entry that fits a device applies, in order. Merged into what the device says of itself
where constellations ask for it, and used by selectors.
"""

from pathlib import Path
from typing import Any

import yaml

from node.sessions.globs import Glob

__all__ = ["DeviceNotes", "tags_of"]


class DeviceNotes:
    """The file, read once at start. Raises ValueError, naming the file and the entry."""

    def __init__(self, path: Path | None) -> None:
        self._entries: list[tuple[Glob, dict[str, Any]]] = []
        if path is None:
            return
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise ValueError(f"devices_config: {path} cannot be read: {type(exc).__name__}") from None
        devices = data.get("devices") if isinstance(data, dict) else None
        if not isinstance(devices, dict):
            raise ValueError(f"devices_config: {path} must hold a map 'devices'")
        for name, notes in devices.items():
            self._entries.append((_glob(str(name)), _checked(str(name), notes)))

    def of(self, device_id: str) -> dict[str, Any]:
        """`{"tags": […], "custom_metadata": {…}}` for a device."""
        tags: dict[str, None] = {}
        metadata: dict[str, Any] = {}
        for glob, notes in self._entries:
            if glob.matches(device_id):
                tags |= dict.fromkeys(notes.get("tags", []))
                metadata |= notes.get("custom_metadata", {})
        return {"tags": list(tags), "custom_metadata": metadata}

    def merged(self, device_id: str, system_info: dict[str, Any]) -> dict[str, Any]:
        """A device's system info with what operators say of it."""
        notes = self.of(device_id)
        if not notes["tags"] and not notes["custom_metadata"]:
            return system_info
        said = system_info.get("custom_metadata")
        return {
            **system_info,
            "tags": list(dict.fromkeys([*tags_of(system_info), *notes["tags"]])),
            "custom_metadata": {**(said if isinstance(said, dict) else {}), **notes["custom_metadata"]},
        }


def tags_of(system_info: dict[str, Any]) -> list[str]:
    """The tags that a device gives itself: in `tags`, or in `custom_metadata.tags`."""
    custom = system_info.get("custom_metadata")
    listed = system_info.get("tags") or (custom.get("tags") if isinstance(custom, dict) else None)
    return [t for t in listed if isinstance(t, str)] if isinstance(listed, list) else []


def _glob(name: str) -> Glob:
    try:
        return Glob(name)
    except ValueError as exc:
        raise ValueError(f"devices_config: devices.{name[:64]}…: {exc}") from None


def _checked(name: str, notes: Any) -> dict[str, Any]:
    if not isinstance(notes, dict) or not set(notes) <= {"tags", "custom_metadata"}:
        raise ValueError(f"devices_config: devices.{name} may hold tags and custom_metadata")
    tags = notes.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(t, str) for t in tags):
        raise ValueError(f"devices_config: devices.{name}.tags must be a list of strings")
    if not isinstance(notes.get("custom_metadata", {}), dict):
        raise ValueError(f"devices_config: devices.{name}.custom_metadata must be a map")
    return notes
