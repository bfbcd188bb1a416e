"""What it was measured on: a figure without its machine and its versions is no figure."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from devtools.bootstrap import ROOT
from devtools.topologies import redis_program

__all__ = ["describe"]

PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "websockets", "redis", "hiredis", "pydantic", "orjson")
PEERS = ("python-socketio", "python-engineio")


def describe() -> dict[str, object]:
    """The machine, what else ran on it, and the versions of everything that was measured."""
    versions = {name: importlib.metadata.version(name) for name in (*PACKAGES, *PEERS)}
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "kernel": platform.release(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "redis-server": _redis_version(),
        **versions,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _redis_version() -> str:
    words = _output(redis_program() or "redis-server", "--version").split()
    return next((word.removeprefix("v=") for word in words if word.startswith("v=")), "unknown")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
