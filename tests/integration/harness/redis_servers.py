"""The Redis of a fleet: private servers, alone or as a topology; nothing of the machine's own Redis is touched.

`AIP_TEST_REDIS` (single, sentinel, cluster; single unless set) says which every fleet gets that does not say otherwise.
"""

import os
import shutil
from pathlib import Path
from typing import cast

import pytest
import redis

from devtools.topologies import KINDS, Server, Topology, open_topology, start_together
from shared_state.keys import Keys
from tests.support.redis_server import require_redis

__all__ = ["RedisServers", "chosen_kind", "needs_single_redis"]

NO_EXPIRY = -1


def chosen_kind() -> str:
    """What `AIP_TEST_REDIS` says."""
    kind = os.environ.get("AIP_TEST_REDIS") or "single"
    if kind not in KINDS:
        pytest.fail(f"AIP_TEST_REDIS is one of {', '.join(KINDS)}")
    return kind


def needs_single_redis(reason: str) -> pytest.MarkDecorator:
    """For a test that makes no sense on Sentinel or Cluster; `reason` is a sentence that says why."""
    return pytest.mark.skipif(chosen_kind() != "single", reason=reason)


class RedisServers:
    """A topology as tests want it: started, shut down, frozen, cut, and looked into."""

    def __init__(self, directory: Path, topology: Topology | None = None) -> None:
        require_redis()
        self.topology = topology or open_topology(chosen_kind(), directory)
        self.url = self.topology.url
        self._started = False

    def start(self) -> None:
        """Start it, or what was shut down of it; returns once it is healthy."""
        if not self._started:
            self._started = True
            self.topology.start()
            return
        start_together([server for server in self.topology.servers if not server.alive])
        self.topology.wait_until_healthy()

    def shut_down(self, *, keep_data: bool) -> None:
        """Stop every server, with its data written to disk for the next `start`, or lost."""
        for server in self.topology.servers:
            self._shut_down(server, keep_data=keep_data)

    def freeze(self) -> None:
        """Stop the clock of every server: their connections stay, nothing is answered."""
        for server in self.topology.servers:
            server.freeze()

    def thaw(self) -> None:
        """Let them go on."""
        for server in self.topology.servers:
            server.thaw()

    def dispose(self) -> None:
        """End everything."""
        self.topology.dispose()

    @property
    def port(self) -> int:
        """Of the one server."""
        (server,) = self.topology.servers
        return server.port

    def _shut_down(self, server: Server, *, keep_data: bool) -> None:
        single = self.topology.kind == "single"
        (server.directory / "dump.rdb").unlink(missing_ok=True)
        if keep_data and single:
            server.client.save()
        if keep_data and not single:
            server.stop()  # what it appended is written
        else:
            server.kill()
        if not keep_data:
            shutil.rmtree(server.directory / "appendonlydir", ignore_errors=True)

    # -- what is in it ---------------------------------------------------------------------------------------------
    @property
    def client(self) -> "redis.Redis":
        """A plain blocking client of the (only) server that takes writes."""
        return self.topology.primaries()[0].client

    def key_names(self, pattern: str = "*") -> list[str]:
        """All keys that match, sorted."""
        return self.topology.keys(pattern)

    def immortal_keys(self) -> list[str]:
        """Keys without a time to live: there should be none."""
        return [
            key.decode()
            for server in self.topology.primaries()
            for key in server.client.scan_iter(count=1000)
            if server.client.pttl(key) == NO_EXPIRY
        ]

    def registration(self, client_id: str) -> dict[str, str]:
        """A client's registration as stored, without its profile; empty if there is none."""
        key = Keys().registration(client_id)
        stored = cast("dict[bytes, bytes]", self.topology.holder(key).client.hgetall(key))
        return {k.decode(): v.decode() for k, v in stored.items() if k != b"profile"}

    def inbox_length(self, key: str) -> int:
        """How many messages wait in an inbox."""
        return self.topology.holder(key).client.xlen(key)

    def mentions(self, node_id: str) -> list[str]:
        """What in Redis still says that `node_id` is there: its lease, its keys, registrations that name it."""
        found = [key for key in self.key_names() if node_id in key]
        leases = "aip:{nodes}:leases"
        if self.topology.holder(leases).client.zscore(leases, node_id) is not None:
            found.append("its lease")
        for server in self.topology.primaries():
            for key in server.client.scan_iter("aip:client:*", count=1000):
                if server.client.hget(key, "node_id") == node_id.encode():
                    found.append(key.decode())
        return found

    # -- what can be done to it ------------------------------------------------------------------------------------
    def kill_clients(self, kind: str) -> None:
        """Cut all connections of a kind (`normal`, `pubsub`) to servers that take writes, but not our own."""
        for server in self.topology.primaries():
            server.client.client_kill_filter(_type=kind, skipme=True)

    def flush_scripts(self) -> None:
        """Let every server forget its scripts."""
        for server in self.topology.servers:
            server.client.script_flush()
