"""Processor, memory, disk and graphics, as this system tells them. What it does not tell is null, never a guess."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

__all__ = ["cpu", "disk", "gpu", "memory"]

_T = TypeVar("_T")

GIB = 1024**3
PROGRAM_S = 4.0
MAX_GPUS = 16


def cpu() -> dict[str, Any]:
    """The processor: model, cores, threads, frequency, and how busy it is."""
    frequency = _or_none(psutil.cpu_freq)
    return {
        "model": _model(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "threads": psutil.cpu_count() or 1,
        "frequency_mhz": round(frequency.max or frequency.current) if frequency else None,
        "architecture": platform.machine(),
        "used_percent": psutil.cpu_percent(interval=None),
        "load_average": _or_none(lambda: [round(load, 2) for load in os.getloadavg()]),
    }


def memory() -> dict[str, Any]:
    """Main memory."""
    found = psutil.virtual_memory()
    return {
        "total_gb": round(found.total / GIB, 2),
        "available_gb": round(found.available / GIB, 2),
        "used_percent": found.percent,
    }


def disk(folder: Path) -> dict[str, Any]:
    """The disk that `folder` lies on. Raises OSError if there is none."""
    usage = psutil.disk_usage(str(folder))
    return {
        "path": str(folder),
        "total_gb": round(usage.total / GIB, 2),
        "free_gb": round(usage.free / GIB, 2),
        "used_percent": usage.percent,
    }


def gpu(proc: Path = Path("/proc/driver/nvidia/gpus")) -> dict[str, Any]:
    """Graphics: what nvidia-smi says, else the driver's files, else the list of PCI devices."""
    devices = _nvidia_smi() or _driver(proc) or _lspci()
    if not devices:
        return {"available": False}
    return {"available": True, "model": devices[0]["model"], "vram_gb": devices[0]["vram_gb"], "devices": devices}


def _or_none(read: Callable[[], _T]) -> _T | None:
    """What `read` finds, or None where this system does not tell."""
    try:
        return read()
    except (OSError, RuntimeError, NotImplementedError, AttributeError, psutil.Error):
        return None


def _model() -> str | None:
    # `platform.processor()` would start a process to find this out.
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return None


def _lines(*command: str) -> list[str]:
    """What a program writes, or nothing if it is not there, fails or takes too long."""
    path = shutil.which(command[0])
    if path is None:
        return []
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, by its full path
            [path, *command[1:]],
            capture_output=True,
            timeout=PROGRAM_S,
            check=True,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.decode("utf-8", errors="replace").splitlines()[:1000]


def _nvidia_smi() -> list[dict[str, Any]]:
    devices = []
    for line in _lines("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"):
        model, _, mib = line.rpartition(",")
        if model.strip():
            known = mib.strip().isdigit()
            devices.append({"model": model.strip(), "vram_gb": round(int(mib) / 1024, 1) if known else None})
    return devices[:MAX_GPUS]


def _driver(folder: Path) -> list[dict[str, Any]]:
    devices = []
    for file in sorted(folder.glob("*/information"))[:MAX_GPUS]:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model":
                devices.append({"model": value.strip(), "vram_gb": None})
    return devices


def _lspci() -> list[dict[str, Any]]:
    kinds = ("VGA compatible controller", "3D controller", "Display controller")
    found = [line.partition(": ")[2] for line in _lines("lspci") if any(kind in line for kind in kinds)]
    return [{"model": model.strip(), "vram_gb": None} for model in found if model.strip()][:MAX_GPUS]
