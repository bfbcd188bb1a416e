"""One real `redis-server` of our own: on a unix socket in a folder of its own, keeping nothing on disk."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from devtools.topologies import Single, redis_program
from tests.support.required import require

__all__ = ["STANDSTILL_MS", "RedisServer", "require_redis", "running_redis"]

# Far above what a busy machine lets a server stand still for; who is silent for longer is dead.
STANDSTILL_MS = 15_000


def require_redis() -> None:
    """Without a redis-server the test is skipped, or fails where servers are required."""
    require(redis_program(), "redis-server")


class RedisServer(Single):
    """One server process. `stop` and `kill` may be followed by `start`, on the same socket; what it held is gone."""

    def __init__(self) -> None:
        require_redis()
        # Not the test's own folder: the path of a unix socket holds 107 characters at most.
        self._folder = Path(tempfile.mkdtemp(prefix="aip-redis-"))
        super().__init__(self._folder, socket_path=self._folder / "s")

    def client(self) -> redis.Redis:
        """A plain blocking client, to look at the server from outside. Close it."""
        return redis.Redis(unix_socket_path=str(self.servers[0].socket_path))

    def stop(self) -> None:
        """End the server in order."""
        self.servers[0].stop()

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self.servers[0].kill()

    def dispose(self) -> None:
        """End the server and remove its folder."""
        super().dispose()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """A server that runs as long as the context."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.dispose()
