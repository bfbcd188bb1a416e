"""One real `redis-server` of our own: on a unix socket in a folder of its own, keeping nothing on disk."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from devtools.topologies import Single, redis_program

__all__ = ["STANDSTILL_MS", "RedisServer", "require_redis", "running_redis"]

# Far above what a busy machine lets a server stand still for; who is silent for longer is dead.
STANDSTILL_MS = 15_000


def require_redis() -> None:
    """Without a redis-server the test is skipped, or fails where servers are required."""
    if redis_program() is not None:
        return
    if os.environ.get("AIP_TEST_REQUIRE_SERVERS", "0") not in {"", "0"}:
        pytest.fail("redis-server is required (AIP_TEST_REQUIRE_SERVERS is set) and not installed")
    pytest.skip("redis-server is not installed")


class RedisServer:
    """One server process. `stop` and `kill` may be followed by `start`, on the same socket; what it held is gone."""

    def __init__(self) -> None:
        require_redis()
        # Not the test's own folder: the path of a unix socket holds 107 characters at most.
        self._folder = Path(tempfile.mkdtemp(prefix="aip-redis-"))
        self._topology = Single(self._folder, socket_path=self._folder / "s")
        self._server = self._topology.servers[0]

    @property
    def url(self) -> str:
        """What `State` takes."""
        return self._topology.url

    def client(self) -> redis.Redis:
        """A plain blocking client, to look at the server from outside. Close it."""
        return redis.Redis(unix_socket_path=str(self._server.socket_path))

    def start(self) -> None:
        """Run the server; returns once it answers."""
        self._topology.start()

    def stop(self) -> None:
        """End the server in order."""
        self._server.stop()

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self._server.kill()

    def remove(self) -> None:
        """End the server and remove its folder."""
        self._topology.dispose()
        shutil.rmtree(self._folder)


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """A server that runs as long as the context."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()
