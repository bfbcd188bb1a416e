"""Processes of a test: started with a log file, stopped, killed, frozen, thawed, and never left behind."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from devtools.topologies import free_port
from tests.integration.harness.patience import SLACK

__all__ = ["ROOT", "Process", "clean_environment", "free_port"]

ROOT = Path(__file__).resolve().parents[3]
# As long as a node's drain and shutdown may take.
STOP_S = 40.0


class Process:
    """One process of the tests. `launch` may be called again after it has ended; the log is appended to."""

    known: ClassVar[list["Process"]] = []

    def __init__(self, name: str, argv: Sequence[str], log_path: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log_path = log_path
        self._argv = list(argv)
        self._environment = dict(environment)
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs (frozen counts)."""
        return self._running is not None and self._running.poll() is None

    @property
    def pid(self) -> int:
        """The process id of its last start."""
        assert self._running is not None
        return self._running.pid

    def launch(self) -> None:
        """Start it; returns at once."""
        assert not self.alive, f"{self.name} runs already"
        with self.log_path.open("ab") as log:
            self._running = subprocess.Popen(
                self._argv, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if self not in Process.known:
            Process.known.append(self)

    def log(self, since: int = 0) -> str:
        """What it wrote, from byte `since` on."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_bytes()[since:].decode("utf-8", "replace")

    def complaints(self, since: int = 0) -> list[str]:
        """Records of level ERROR, and what is no record at all: a traceback, a warning of the interpreter."""
        harmless = (["INFO"], ["WARNING"], ["DEBUG"])
        return [line for line in self.log(since).splitlines() if line.split(maxsplit=2)[1:2] not in harmless]

    def fail_if_ended(self) -> None:
        """Fail the test, with its log, if it ended by itself."""
        if not self.alive:
            code = None if self._running is None else self._running.returncode
            pytest.fail(f"{self.name} ended by itself with code {code}:\n{self.log()[-4000:]}")

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it."""
        assert self._running is not None
        self._running.send_signal(number)

    def freeze(self) -> None:
        """Stop its clock: SIGSTOP."""
        self.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on: SIGCONT."""
        self.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for the end. Safe to repeat."""
        if self._running is not None:
            self._running.kill()
            self._running.wait(STOP_S * SLACK)

    def stop(self) -> int:
        """SIGTERM, and wait for the end. Returns the exit code; fails the test if it does not end."""
        assert self._running is not None
        self._running.terminate()
        try:
            return self._running.wait(STOP_S * SLACK)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"{self.name} did not end after SIGTERM")

    def dispose(self) -> None:
        """End it whatever state it is in, and forget it."""
        if self.alive:
            self.thaw()
        self.kill()
        if self in Process.known:
            Process.known.remove(self)


def clean_environment() -> dict[str, str]:
    """This process's environment without anything that a node would read, and without proxies."""
    return {k: v for k, v in os.environ.items() if not k.startswith("AIP_") and not k.lower().endswith("_proxy")}
