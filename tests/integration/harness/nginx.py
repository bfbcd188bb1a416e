"""nginx with the project's own configuration, in front of nodes, or of two small servers that keep a journal."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from devtools.servers import search_path
from loadbalancer.render import render
from tests.integration.harness.patience import SLACK
from tests.integration.harness.processes import Process, clean_environment, free_port
from tests.support.required import require

__all__ = ["Front", "Nginx", "Servers", "nginx_binary"]

UPSTREAM = Path(__file__).with_name("nginx_upstream.py")
READY_S = 20.0


def nginx_binary() -> str:
    """nginx, or skip; where servers are required, fail."""
    return require(shutil.which("nginx", path=search_path()), "nginx")


class Nginx(Process):
    """One nginx with one worker. `options` go to `render`, for this start and every reload."""

    def __init__(self, directory: Path, nodes: Sequence[str], **options: Any) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}/ws"
        # All clients of a test have one address.
        self._options = {"connections_per_address": 0} | options
        self._config = directory / "nginx.conf"
        command = [nginx_binary(), "-p", str(directory), "-c", str(self._config), "-e", "stderr"]
        self._check = [*command, "-t"]
        argv = [*command, "-g", "daemon off;"]
        super().__init__("nginx", argv, directory / "nginx.out", clean_environment())
        self.configure(nodes)

    def configure(self, nodes: Sequence[str]) -> None:
        """Write the configuration for these nodes; nginx itself finds nothing wrong with it."""
        text = render(
            nodes,
            f"127.0.0.1:{self.port}",
            self.directory,
            user="root" if os.geteuid() == 0 else None,
            worker_processes=1,
            worker_connections=256,
            **self._options,
        )
        self._config.write_text(text, encoding="utf-8")
        done = subprocess.run(self._check, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "[warn]" not in done.stderr, done.stderr

    def start(self) -> None:
        """Run it; returns once it listens."""
        self.launch()
        wait_until(self, partial(_listens, self.port), "it listens")

    def reload(self, nodes: Sequence[str]) -> None:
        """Serve these nodes from now on; returns once a new worker has taken over. The old one keeps its sockets."""
        before = self._workers()
        self.configure(nodes)
        self.send_signal(signal.SIGHUP)
        wait_until(self, lambda: bool(self._workers() - before), "a new worker is there")

    def kill(self) -> None:
        """SIGTERM, whatever is open: a master that is killed leaves its workers behind."""
        if self.alive:
            self.stop()

    def lines(self) -> list[dict[str, Any]]:
        """The access log, which is written with a delay of a second."""
        file = self.directory / "nginx-access.log"
        return [json.loads(line) for line in file.read_text().splitlines()]

    def line(self, path: str) -> dict[str, Any]:
        """The first line of the access log about `path`."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [line for line in self.lines() if line["path"] == path]
            return bool(found)

        wait_until(self, look, f"{path} is in the access log")
        return found[0]

    def _workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.pid).children()}


class Servers:
    """The servers `a` and `b` of `nginx_upstream.py`: started once, as good as new for each test."""

    def __init__(self, directory: Path) -> None:
        self.journal = directory / "journal.jsonl"
        self.nodes = [f"127.0.0.1:{free_port()}" for _ in "ab"]
        self.processes: dict[str, Process] = {}
        for name, node in zip("ab", self.nodes, strict=True):
            argv = [sys.executable, str(UPSTREAM), name, node.partition(":")[2], str(self.journal)]
            self.processes[name] = Process(name, argv, directory / f"{name}.out", clean_environment())

    def renew(self) -> None:
        """Forget what was, and start whoever was killed; returns once both listen."""
        for file in self.journal.parent.glob(f"{self.journal.stem}.*"):
            file.unlink()
        for process in self.processes.values():
            if not process.alive:
                process.launch()
        for process, node in zip(self.processes.values(), self.nodes, strict=True):
            wait_until(process, partial(_listens, int(node.partition(":")[2])), "it listens")

    def dispose(self) -> None:
        """End them."""
        for process in self.processes.values():
            process.dispose()


class Front:
    """nginx in front of two small servers."""

    def __init__(self, directory: Path, servers: Servers, **options: Any) -> None:
        servers.renew()
        self.directory = directory
        self.servers = servers.processes
        self.nodes = servers.nodes
        self.journal = servers.journal
        self.nginx = Nginx(directory, self.nodes, **options)
        self.port, self.url, self.ws_url = self.nginx.port, self.nginx.url, self.nginx.ws_url
        self.nginx.start()

    def dispose(self) -> None:
        """End nginx."""
        self.nginx.dispose()

    def seen(self, kind: str) -> list[str]:
        """The names of the servers that `kind` reached."""
        if not self.journal.exists():
            return []
        entries = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [entry["name"] for entry in entries if entry["kind"] == kind]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(process: Process, condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition`, with the log of `process` in the failure."""
    deadline = time.monotonic() + READY_S * SLACK
    while not condition():
        process.fail_if_ended()
        if time.monotonic() > deadline:
            pytest.fail(f"gave up waiting until {what}:\n{process.log()[-4000:]}")
        time.sleep(0.02)
