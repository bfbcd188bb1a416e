"""A real `redis-server` of our own: on a unix socket in a folder of its own, keeping nothing on disk."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import redis

__all__ = ["RedisServer", "redis_binary"]

START_S = 20.0


def redis_binary() -> str:
    """The server's path. Without one the test is skipped, or fails where servers are required."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is not None:
        return found
    if os.environ.get("AIP_TEST_REQUIRE_SERVERS") == "1":
        pytest.fail("redis-server is required (AIP_TEST_REQUIRE_SERVERS is set) and not installed")
    pytest.skip("redis-server is not installed")


class RedisServer:
    """One server process. `stop` and `kill` may be followed by `start`, on the same socket; what it held is gone."""

    def __init__(self, binary: str) -> None:
        self._binary = binary
        # Not the test's own folder: the path of a unix socket holds 107 characters at most.
        self._folder = Path(tempfile.mkdtemp(prefix="aip-redis-"))
        self._socket = self._folder / "s"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What `State` takes."""
        return f"unix://{self._socket}"

    def client(self) -> redis.Redis:
        """A plain blocking client, to look at the server from outside. Close it."""
        return redis.Redis(unix_socket_path=str(self._socket))

    def start(self) -> None:
        """Run the server; returns once it answers."""
        command = [self._binary, "--port", "0", "--unixsocket", str(self._socket), "--dir", str(self._folder)]
        command += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--logfile", "log"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"redis-server does not start: {self._log()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End the server in order."""
        self._end(kill=False)

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self._end(kill=True)

    def remove(self) -> None:
        """End the server and remove its folder."""
        self._end(kill=True)
        shutil.rmtree(self._folder)

    def _end(self, *, kill: bool) -> None:
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(timeout=START_S)
        self._process = None
        self._socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    def _log(self) -> str:
        log = self._folder / "log"
        return log.read_text(errors="replace")[-500:] if log.exists() else "no log"
