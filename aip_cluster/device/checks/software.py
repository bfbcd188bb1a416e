"""The operating system and what is installed on it, read from files: no package manager is started."""

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

__all__ = ["features", "installed_apps", "operating_system"]

MAX_APPS = 200
MAX_FILE_BYTES = 64 * 1024

_DESKTOP_FOLDERS = (
    Path("/usr/share/applications"),
    Path("/usr/local/share/applications"),
    Path("/var/lib/flatpak/exports/share/applications"),
    Path("/var/lib/snapd/desktop/applications"),
)
_DPKG_STATUS = Path("/var/lib/dpkg/status")
_MAC_APPLICATIONS = Path("/Applications")
_BROWSERS = ("firefox", "chromium", "chromium-browser", "google-chrome", "microsoft-edge", "safari")
_OFFICES = ("soffice", "libreoffice")


def operating_system(agent_platform: str) -> dict[str, Any]:
    """The system that runs here. `agent_platform` is AIP's word for it."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return {
        "platform": agent_platform,
        "name": release.get("PRETTY_NAME") or platform.version(),
        "version": release.get("VERSION_ID") or platform.release(),
        "build": platform.release(),
        "system": platform.system(),
        "machine": platform.machine(),
        "boot_time_s": _boot_time_s(),
        "python": platform.python_version(),
    }


def installed_apps(desktop_folders: tuple[Path, ...] = _DESKTOP_FOLDERS, dpkg_status: Path = _DPKG_STATUS) -> list[str]:
    """Names of what is installed, 200 at most: applications with a desktop entry, then packages, no libraries."""
    applications = sorted({name for folder in desktop_folders for name in _desktop_entries(folder)})
    if _MAC_APPLICATIONS.is_dir():
        applications += sorted(path.stem for path in _MAC_APPLICATIONS.glob("*.app"))
    packages = sorted(set(_packages(dpkg_status)) - set(applications))
    return (applications + packages)[:MAX_APPS]


def features(agent_platform: str) -> list[str]:
    """What the device can do, in the words that UFO's clients use for it."""
    found = ["cli", "file_system"]
    if agent_platform in {"linux", "darwin"}:
        found.append("linux_apps" if agent_platform == "linux" else "macos_apps")
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        found.append("gui")
        if any(shutil.which(name) for name in _BROWSERS):
            found.append("browser")
    if any(shutil.which(name) for name in _OFFICES):
        found.append("office")
    return found


def _boot_time_s() -> int | None:
    try:
        return int(psutil.boot_time())
    except (OSError, RuntimeError, psutil.Error):
        return None


def _desktop_entries(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.desktop"))[: MAX_APPS * 4]:
        try:
            with file.open("rb") as opened:
                text = opened.read(MAX_FILE_BYTES).decode("utf-8", errors="replace")
        except OSError:
            continue
        entry = text.partition("[Desktop Entry]")[2].partition("\n[")[0]
        values = dict(line.split("=", 1) for line in entry.splitlines() if "=" in line)
        hidden = values.get("NoDisplay", "").strip() == "true" or values.get("Hidden", "").strip() == "true"
        if values.get("Type", "Application").strip() == "Application" and not hidden and values.get("Name"):
            yield values["Name"].strip()[:100]


def _packages(status: Path) -> Iterator[str]:
    """Installed packages, without those that nobody installs for themselves."""
    try:
        opened = status.open(encoding="utf-8", errors="replace")
    except OSError:
        return
    with opened:
        name = ""
        for line in opened:
            if line.startswith("Package: "):
                name = line[9:].strip()
            elif line.startswith("Status: ") and line.strip().endswith(" installed") and _wanted(name):
                yield name


def _wanted(package: str) -> bool:
    return not package.startswith(("lib", "fonts-")) and not package.endswith(("-dev", "-data", "-common", "-dbg"))
