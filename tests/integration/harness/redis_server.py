"""A private redis-server: nothing of the machine's own Redis is read or touched."""

import os
import shutil
import time
from pathlib import Path
from typing import cast

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.integration.harness.patience import SLACK
from tests.integration.harness.processes import Process, clean_environment, free_port

__all__ = ["RedisServer", "redis_program"]

START_S = 10.0
NO_EXPIRY = -1


def redis_program() -> str:
    """Path of redis-server (or valkey-server). Missing: skips, or fails where servers are required."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if found:
            return found
    if os.environ.get("AIP_TEST_REQUIRE_SERVERS", "0") not in {"", "0"}:
        pytest.fail("redis-server is required (AIP_TEST_REQUIRE_SERVERS is set) and not installed")
    pytest.skip("redis-server is not installed")


class RedisServer(Process):
    """One Redis on one port, with its own directory; it saves only when told to."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.directory = directory
        argv = [redis_program(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)]
        argv += ["--save", "", "--appendonly", "no", "--dbfilename", "dump.rdb", "--daemonize", "no"]
        super().__init__("redis", argv, directory / "redis.log", clean_environment())
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(
            host="127.0.0.1", port=self.port, socket_timeout=5.0, retry=Retry(NoBackoff(), 1), protocol=2
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        deadline = time.monotonic() + START_S * SLACK
        while True:
            try:
                self.client.ping()
            except redis.exceptions.RedisError:
                self.fail_if_ended()
                if time.monotonic() > deadline:
                    pytest.fail("redis-server does not answer")
                time.sleep(0.02)
            else:
                return

    def shut_down(self, *, keep_data: bool) -> None:
        """Stop it, with its data written to disk for the next `start`, or lost."""
        (self.directory / "dump.rdb").unlink(missing_ok=True)
        if keep_data:
            self.client.save()
        self.client.close()
        self.kill()

    def dispose(self) -> None:
        """End it and close the connection to it."""
        self.client.close()
        super().dispose()

    # -- what is in it ---------------------------------------------------------------------------------------------
    def key_names(self, pattern: str = "*") -> list[str]:
        """All keys that match, sorted."""
        return sorted(key.decode() for key in cast("list[bytes]", self.client.keys(pattern)))

    def immortal_keys(self) -> list[str]:
        """Keys without a time to live: there should be none."""
        return [key for key in self.key_names() if self.client.pttl(key) == NO_EXPIRY]

    def registration(self, client_id: str) -> dict[str, str]:
        """A client's registration as stored, without its profile; empty if there is none."""
        stored = cast("dict[bytes, bytes]", self.client.hgetall(f"aip:client:{{{client_id}}}"))
        return {k.decode(): v.decode() for k, v in stored.items() if k != b"profile"}

    def mentions(self, node_id: str) -> list[str]:
        """What in Redis still says that `node_id` is there: its lease, its keys, registrations that name it."""
        found = [key for key in self.key_names() if node_id in key]
        if self.client.zscore("aip:{nodes}:leases", node_id) is not None:
            found.append("its lease")
        for key in self.key_names("aip:client:*}"):
            if self.client.hget(key, "node_id") == node_id.encode():
                found.append(key)
        return found

    def kill_clients(self, kind: str) -> None:
        """Cut all connections of a kind (`normal`, `pubsub`), but not this one."""
        self.client.client_kill_filter(_type=kind, skipme=True)
