"""The command `scripts/lock`: writes `requirements/*.lock` from the two pyproject.toml.

A lock pins every package of an environment, with the hashes of its files, for every supported Python and platform. It
names no registry: where packages come from is the business of the machine that installs them (`pip config`). That is
why it is not `uv.lock`, which holds the address of each file. Every environment takes its versions from `dev.lock`: a
package has the same version wherever it is.
"""

import argparse
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from devtools.bootstrap import BUILD, DEV, DEVICE, NODE, ROOT
from devtools.outcome import Exit, ScriptError, end_cleanly_on_signals, report, say

__all__ = ["ENVIRONMENTS", "LIGHT", "SERVER", "compile_lock", "main", "pins", "project", "requested"]

LIGHT = ROOT / "aip_cluster" / "pyproject.toml"
SERVER = ROOT / "pyproject.toml"
OLDEST_PYTHON = "3.11"
HEADER = "# Written by scripts/lock. Do not edit.\n"
# DEV first: the others take their versions from it.
ENVIRONMENTS = (DEV, NODE, DEVICE, BUILD)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    end_cleanly_on_signals()
    parser = argparse.ArgumentParser(
        prog="scripts/lock",
        description="Pin every package that the project needs, with hashes: requirements/*.lock.",
        epilog="Without --upgrade, what is pinned already stays as it is while it satisfies what is required.",
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest release of every package")
    options = parser.parse_args(argv)
    try:
        for lock in ENVIRONMENTS:
            lock.parent.mkdir(exist_ok=True)
            arguments = ["--generate-hashes"]
            if lock is not DEV:
                arguments += ["--constraint", str(DEV)]
            if lock is not DEV or options.upgrade:
                arguments.append("--upgrade")
            compile_lock(requested(lock), lock, *arguments)
            lock.write_text(HEADER + lock.read_text(encoding="utf-8"), encoding="utf-8")
            say(f"{lock.relative_to(ROOT)}: {len(pins(lock))} packages")
    except ScriptError as exc:
        return report("lock", exc)
    return 0


def project(path: Path) -> dict[str, Any]:
    """The content of a pyproject.toml."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def requested(lock: Path) -> list[Requirement]:
    """What the project itself requires in the environment of a lock, without its own distributions."""
    light, server = project(LIGHT), project(SERVER)
    by_lock = {
        BUILD: _group(server, "build"),
        DEVICE: _with_extras(light),
        NODE: [*light["project"]["dependencies"], *_with_extras(server)],
        DEV: [*_with_extras(light), *_with_extras(server), *_group(server, "dev")],
    }
    own = {light["project"]["name"], server["project"]["name"]}
    return [wanted for wanted in map(Requirement, by_lock[lock]) if wanted.name not in own]


def compile_lock(requirements: Iterable[Requirement], target: Path, *arguments: str) -> None:
    """Resolves `requirements` for every supported Python into `target`. Raises ScriptError with the reason."""
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"),
        *("--python-version", OLDEST_PYTHON, "--no-header", "--no-annotate", "--no-emit-index-url"),
        *(*arguments, "--output-file", str(target), "-"),
    ]
    lines = "".join(f"{wanted}\n" for wanted in requirements)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise ScriptError(Exit.MISSING, f"the versions for {target.name} cannot be found:\n{done.stderr.rstrip()}")


def pins(lock: Path) -> list[Requirement]:
    """The packages of a lock, each with one version; one package may be there for several markers."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    return [Requirement(line.rstrip("\\ ")) for line in lines if line[:1].isalnum()]


def _with_extras(content: dict[str, Any]) -> list[str]:
    extras = content["project"]["optional-dependencies"].values()
    return [*content["project"]["dependencies"], *(line for extra in extras for line in extra)]


def _group(content: dict[str, Any], name: str) -> list[str]:
    lines: list[str] = []
    for item in content["dependency-groups"][name]:
        lines += [item] if isinstance(item, str) else _group(content, item["include-group"])
    return lines
