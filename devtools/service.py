"""A process that may be started again after it has ended: a node, a device, nginx, a Redis of tests and of chaos.

Unlike a child of `devtools.processes` it is in the process group of who started it, and may outlive a starter that is
killed; `dispose` ends it whatever state it is in.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from devtools.bootstrap import ROOT

__all__ = ["STOP_S", "Service", "clean_environment", "node_environment"]

# As long as a node's drain and shutdown may take.
STOP_S = 40.0


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without what a node or a device would read, and without proxies; then `variables`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("AIP_") and not k.lower().endswith("_proxy")}
    return env | variables


def node_environment(**settings: object) -> dict[str, str]:
    """A clean environment in which a node has these settings, given by their names."""
    return clean_environment(**{f"AIP_{name.upper()}": str(value) for name, value in settings.items()})


class Service:
    """One process, and its log, which every start appends to."""

    def __init__(
        self, name: str, command: Sequence[str], log_path: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._command = list(command)
        self._environment = None if environment is None else dict(environment)
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs; frozen counts."""
        return self._running is not None and self._running.poll() is None

    @property
    def pid(self) -> int:
        """The process id of its last start. Raises RuntimeError if there was none."""
        if self._running is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._running.pid

    def launch(self) -> None:
        """Start it; returns at once. Raises RuntimeError if it runs already."""
        if self.alive:
            raise RuntimeError(f"{self.name} runs already")
        with self.log_path.open("ab") as log:
            self._running = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def log(self, since: int = 0) -> str:
        """What it wrote, from byte `since` on."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_bytes()[since:].decode("utf-8", "replace")

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it; one that is gone gets nothing."""
        if self._running is not None:
            self._running.send_signal(number)

    def freeze(self) -> None:
        """Stop its clock (SIGSTOP): it holds its connections and answers nothing."""
        self.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would, and wait for its end. Safe to repeat."""
        if self._running is not None:
            self._running.kill()
            self._running.wait(STOP_S)

    def stop(self, within_s: float = STOP_S) -> int:
        """End it in order (SIGTERM); returns its exit code. Raises subprocess.TimeoutExpired if it does not end."""
        if self._running is None:
            return 0
        self.send_signal(signal.SIGTERM)
        self.thaw()
        return self._running.wait(within_s)

    def dispose(self) -> None:
        """End it whatever state it is in. Safe to repeat."""
        self.kill()
