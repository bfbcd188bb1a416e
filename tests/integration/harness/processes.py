"""Processes of a test: services that a report of a failure shows the log of, and that fail the test by themselves."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from devtools.bootstrap import ROOT
from devtools.service import STOP_S, Service, clean_environment
from devtools.topologies import free_port
from tests.integration.harness.patience import SLACK

__all__ = ["ROOT", "Process", "clean_environment", "free_port"]


class Process(Service):
    """One process of the tests. `launch` may be called again after it has ended."""

    known: ClassVar[list["Process"]] = []

    def __init__(self, name: str, argv: Sequence[str], log_path: Path, environment: Mapping[str, str]) -> None:
        super().__init__(name, argv, log_path, environment)

    def launch(self) -> None:
        """Start it; returns at once."""
        super().launch()
        if self not in Process.known:
            Process.known.append(self)

    def complaints(self, since: int = 0) -> list[str]:
        """Records of level ERROR, and what is no record at all: a traceback, a warning of the interpreter."""
        harmless = (["INFO"], ["WARNING"], ["DEBUG"])
        return [line for line in self.log(since).splitlines() if line.split(maxsplit=2)[1:2] not in harmless]

    def fail_if_ended(self) -> None:
        """Fail the test, with its log, if it ended by itself."""
        if not self.alive:
            code = None if self._running is None else self._running.returncode
            pytest.fail(f"{self.name} ended by itself with code {code}:\n{self.log()[-4000:]}")

    def stop(self, within_s: float = STOP_S * SLACK) -> int:
        """SIGTERM, and wait for the end. Returns the exit code; fails the test if it does not end."""
        try:
            return super().stop(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"{self.name} did not end after SIGTERM")

    def dispose(self) -> None:
        """End it whatever state it is in, and forget it."""
        super().dispose()
        if self in Process.known:
            Process.known.remove(self)
