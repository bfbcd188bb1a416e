"""Node processes: the program that users start, with the interpreter that runs the tests."""

import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from devtools.service import node_environment
from tests.integration.harness.patience import SLACK
from tests.integration.harness.processes import Process, free_port

__all__ = ["NodeProcess"]

READY_S = 30.0
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NodeProcess(Process):
    """One `aip-node`. `settings` are its settings by name, given as `AIP_*` variables."""

    def __init__(self, name: str, directory: Path, **settings: object) -> None:
        self.port = free_port()
        # A test may leave a client that is at work: its cluster does not wait for that for minutes when it stops.
        # All clients of a test have one address: it may have all that the node bears.
        defaults = {"drain_deadline_s": 20, "address_share": 1}
        self.settings = {"node_id": name, "host": "127.0.0.1", "port": self.port, **defaults, **settings}
        argv = [sys.executable, "-m", "node"]
        super().__init__(name, argv, directory / f"{name}.log", node_environment(**self.settings))
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}/ws"

    def answers(self, path: str) -> bool:
        """Whether `path` is answered with 200 now."""
        try:
            with _opener.open(f"{self.url}{path}", timeout=2.0):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def wait_until(self, path: str) -> None:
        """Wait until `path` is answered with 200."""
        deadline = time.monotonic() + READY_S * SLACK
        while not self.answers(path):
            self.fail_if_ended()
            if time.monotonic() > deadline:
                pytest.fail(f"{self.name} does not answer {path}:\n{self.log()[-4000:]}")
            time.sleep(0.02)
