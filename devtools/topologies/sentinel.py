"""A primary with two replicas, watched by three sentinels that replace it within about two seconds of its death."""

from pathlib import Path
from typing import Any

import redis

from devtools.topologies.base import Topology, TopologyError, wait_until
from devtools.topologies.server import Server, start_together

__all__ = ["SERVICE", "Sentinel"]

SERVICE = "aip"
REPLICAS = 2
SENTINELS = 3
QUORUM = 2
DOWN_AFTER_MS = 1_000
FAILOVER_TIMEOUT_MS = 5_000
KEPT = ["--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction", "--repl-diskless-sync-delay", "0"]


class Sentinel(Topology):
    """`redis-0` is the first primary. Data outlives a restart (append-only file): a primary that came back empty would
    empty its replicas."""

    kind = "sentinel"

    def __init__(self, directory: Path) -> None:
        # Each with a file of its own, which a failover rewrites: who restarts follows whom it followed last.
        first = Server("redis-0", directory / "redis-0", arguments=KEPT, config=["# the first primary"])
        following = [f"replicaof 127.0.0.1 {first.port}"]
        self.servers = [
            first,
            *(
                Server(f"redis-{i}", directory / f"redis-{i}", arguments=KEPT, config=following)
                for i in range(1, REPLICAS + 1)
            ),
        ]
        # A sentinel rewrites its configuration, and keeps in it what it has agreed upon.
        watch = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {first.port} {QUORUM}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}",
            f"sentinel parallel-syncs {SERVICE} {REPLICAS}",
        ]
        self.sentinels = [
            Server(f"sentinel-{i}", directory / f"sentinel-{i}", config=watch, sentinel=True) for i in range(SENTINELS)
        ]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(s.address for s in self.sentinels)}/{SERVICE}/0"

    @property
    def can_fail_over(self) -> bool:
        return True

    def start(self) -> None:
        start_together(self.servers)
        start_together(self.sentinels)
        self.wait_until_healthy()

    def tolerate_silence(self, silence_ms: int) -> None:
        for sentinel in self.sentinels:
            sentinel.ask("SENTINEL", "SET", SERVICE, "down-after-milliseconds", silence_ms)

    @property
    def healthy(self) -> bool:
        """Every sentinel knows the others and every replica, and every replica follows the primary they agree on."""
        try:
            agreed = {self._elected(sentinel) for sentinel in self.sentinels}
            if len(agreed) != 1:
                return False
            elected = agreed.pop()
            primary = next(s for s in self.servers if s.port == elected)
            replication: dict[str, Any] = primary.client.info("replication")
            following = replication["role"] == "master" and replication["connected_slaves"] == len(self.servers) - 1
            return following and all(self._is_informed(sentinel) for sentinel in self.sentinels)
        except (redis.exceptions.RedisError, StopIteration):
            return False

    def primaries(self) -> list[Server]:
        """The one that the majority of the sentinels names. Raises TopologyError if none answers."""
        votes: list[int] = []
        for sentinel in self.sentinels:
            try:
                votes.append(self._elected(sentinel))
            except redis.exceptions.RedisError:
                continue
        if not votes:
            raise TopologyError("no sentinel answers")
        elected = max(votes, key=votes.count)
        return [next(s for s in self.servers if s.port == elected)]

    def failover(self) -> str:
        self.wait_until_healthy()
        old = self.primaries()[0]
        wait_until(self._order_failover, "a sentinel takes the order to fail over")
        wait_until(lambda: self._promoted_instead_of(old), "another server is the primary")
        return self.primaries()[0].name

    def await_failover(self, name: str) -> str:
        """After `kill_primary` or `pause`: returns once another server than `name` is the primary; its name."""
        wait_until(lambda: self._promoted_instead_of(self.server(name)), "another server is the primary")
        return self.primaries()[0].name

    def dispose(self) -> None:
        for sentinel in self.sentinels:
            sentinel.dispose()
        super().dispose()

    def _order_failover(self) -> bool:
        self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)
        return True

    def _promoted_instead_of(self, old: Server) -> bool:
        primary = self.primaries()[0]
        return primary is not old and primary.client.info("replication")["role"] == "master"

    @staticmethod
    def _elected(sentinel: Server) -> int:
        address = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(address[1])

    def _is_informed(self, sentinel: Server) -> bool:
        seen: Any = sentinel.client.sentinel_master(SERVICE)
        return bool(
            seen["num-slaves"] == len(self.servers) - 1
            and seen["num-other-sentinels"] == len(self.sentinels) - 1
            and seen["flags"] == "master"
        )
