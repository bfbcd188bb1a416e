"""The project's own virtual environment: made on the first run, brought up to date when what it is made of changes.

Packages come from `requirements/*.lock`, with their hashes; both distributions are installed editable on top. Two
scripts that start at once take turns. Output of pip is shown only if it fails. Nothing here needs a package: it runs
before any is there.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from devtools.outcome import Exit, ScriptError, report, say

__all__ = [
    "BUILD",
    "DEV",
    "DEVICE",
    "NODE",
    "ROOT",
    "VENV",
    "ensure_venv",
    "enter_venv",
    "one_at_a_time",
    "pip_install",
]

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# In the environment, so that it goes when the environment goes.
STAMP = VENV / "aip-cluster.json"
# The locks, by who needs what they hold: a build, a node with all that it can use, a device, and whoever works here.
BUILD, NODE, DEVICE, DEV = (ROOT / "requirements" / f"{name}.lock" for name in ("build", "node", "device", "dev"))
CLUSTER = (NODE, DEVICE, BUILD)
# Both distributions; the server requires the light one.
PROJECTS = (ROOT / "aip_cluster", ROOT)


class _Stamp(NamedTuple):
    """What was installed, and from which locks."""

    fingerprint: str
    tools: bool


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Waits until no other script installs anything for this checkout."""
    directory = ROOT / ".run"
    directory.mkdir(exist_ok=True)
    with (directory / "install.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another script that installs the project ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure_venv(*, tools: bool) -> None:
    """Makes `.venv` hold the project, editable, and what nodes and devices need; `tools` adds those of developers.

    Raises ScriptError.
    """
    fingerprint = _fingerprint()
    stamp = _read_stamp()
    usable = PYTHON.exists() and subprocess.run([PYTHON, "-c", ""], check=False, capture_output=True).returncode == 0
    commands = all((VENV / "bin" / name).exists() for name in ("aip-node", "aip-device"))
    if usable and commands and stamp.fingerprint == fingerprint and stamp.tools >= tools:
        return
    if not usable:
        _create()
    # What was installed before stays: a developer's environment does not lose its tools to a demo.
    tools |= stamp.tools
    say(f"Installing the project into {VENV.name} ...")
    locks = [part for lock in ((DEV,) if tools else CLUSTER) for part in ("-r", str(lock))]
    pip_install("--require-hashes", *locks)
    for folder in PROJECTS:
        # One after the other: an aip-cluster from before there were two takes the server's command along when it goes.
        pip_install("--no-deps", "--no-build-isolation", "-e", str(folder))
    STAMP.write_text(json.dumps(_Stamp(fingerprint, tools)._asdict()) + "\n", encoding="utf-8")


def enter_venv(script: str) -> None:
    """Returns inside the virtual environment, with the project and the tools of developers importable.

    Outside of it, starts `script` again there: for scripts that need the project's packages themselves. Ends the
    process with a message if that cannot be had.
    """
    if Path(sys.prefix).resolve() != VENV.resolve():
        try:
            with one_at_a_time():
                ensure_venv(tools=True)
        except ScriptError as exc:
            raise SystemExit(report(Path(script).name, exc)) from None
        os.execv(PYTHON, [str(PYTHON), script, *sys.argv[1:]])  # noqa: S606 - no shell is wanted
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))


def pip_install(*arguments: str) -> None:
    """pip in the virtual environment; raises ScriptError with its output if it fails."""
    command = [str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True
    )
    if done.returncode:
        raise ScriptError(Exit.MISSING, f"pip could not install {arguments[-1]}:\n{done.stdout.rstrip()}")


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in (*(folder / "pyproject.toml" for folder in PROJECTS), *CLUSTER, DEV):
        digest.update(path.read_bytes())
    # The commands in .venv/bin begin with its path: a checkout that was moved is installed again.
    digest.update(str(ROOT).encode())
    return digest.hexdigest()


def _read_stamp() -> _Stamp:
    try:
        return _Stamp(**json.loads(STAMP.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _Stamp("", tools=False)


def _create() -> None:
    if importlib.util.find_spec("ensurepip") is None:
        # Debian keeps it in a package of its own.
        from devtools.servers import apt_install  # noqa: PLC0415 - only here, and servers needs this module

        package = f"python3.{sys.version_info.minor}-venv"
        if not apt_install(package, "python3-venv"):
            raise ScriptError(
                Exit.MISSING, f"this Python cannot make virtual environments: install the package {package}"
            )
    say(f"Making the virtual environment {VENV.name} ...")
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True)
    if done.returncode:
        raise ScriptError(Exit.MISSING, f"the virtual environment could not be made:\n{done.stdout.rstrip()}")
