"""What every topology can do: start, be broken in the ways that happen, be looked into, be disposed of.

Faults name a server by its `name`; without a name they hit the primary (of a Cluster: the first one). `servers` are
those that hold data; a topology's watchers (sentinels) are its own affair.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import redis

from devtools.topologies.server import Server, TopologyError

__all__ = ["PATIENCE_S", "Topology", "TopologyError", "wait_until"]

PATIENCE_S = 60.0
EVERY_S = 0.05


def wait_until(check: Callable[[], object], what: str, *, patience_s: float = PATIENCE_S) -> None:
    """Returns once `check` is true. Raises TopologyError after `patience_s`; an error of Redis counts as not yet."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            if check():
                return
        except redis.exceptions.RedisError:
            pass
        if time.monotonic() > deadline:
            raise TopologyError(f"waited {patience_s:g} s in vain until {what}")
        time.sleep(EVERY_S)


class Topology(ABC):
    """Redis servers that belong together. Not thread safe."""

    kind: str
    servers: list[Server]

    @property
    @abstractmethod
    def url(self) -> str:
        """What a node takes as `redis_url`."""

    @abstractmethod
    def start(self) -> None:
        """Run everything; returns once it is healthy. Raises TopologyError."""

    @abstractmethod
    def primaries(self) -> list[Server]:
        """Who takes writes now, by the servers' own word."""

    @property
    @abstractmethod
    def healthy(self) -> bool:
        """Whether every server runs and every replica follows its primary."""

    @property
    def can_fail_over(self) -> bool:
        """Whether there is a replica that takes a dead primary's place."""
        return False

    def wait_until_healthy(self) -> None:
        """Returns once `healthy`. Raises TopologyError."""
        wait_until(lambda: self.healthy, f"the {self.kind} Redis is healthy")

    @abstractmethod
    def tolerate_silence(self, silence_ms: int) -> None:
        """From now on nobody takes the place of a server that is silent for less than this.

        For whoever breaks nothing, on a machine where a process may stand still for a second.
        """

    # -- faults ------------------------------------------------------------------------------------------------------
    def kill_primary(self) -> str:
        """Kill the primary as a crash would; returns its name, for `restart`."""
        primary = self.primaries()[0]
        primary.kill()
        return primary.name

    def failover(self) -> str:
        """Move the primary's place to a replica in order; returns the name of the new primary once it has taken over.

        Raises TopologyError where there is no replica.
        """
        raise TopologyError(f"a {self.kind} Redis has nobody to fail over to")

    def pause(self, name: str | None = None) -> str:
        """Freeze a server: its connections stay, nothing is answered. Returns its name."""
        server = self.server(name) if name else self.primaries()[0]
        server.freeze()
        return server.name

    def resume(self, name: str | None = None) -> None:
        """Let a frozen server go on; without a name, all of them."""
        for server in [self.server(name)] if name else self.servers:
            server.thaw()

    def restart(self, name: str) -> None:
        """Start a server that was killed; returns once it answers."""
        server = self.server(name)
        server.kill()
        server.start()

    def dispose(self) -> None:
        """End everything. Safe to repeat."""
        for server in self.servers:
            server.dispose()

    # -- looking in --------------------------------------------------------------------------------------------------
    def server(self, name: str) -> Server:
        """The server of that name. Raises TopologyError."""
        for server in self.servers:
            if server.name == name:
                return server
        raise TopologyError(f"no server {name!r}: there are {[s.name for s in self.servers]}")

    def holder(self, key: str) -> Server:  # noqa: ARG002 - only a Cluster has to look at the key
        """The primary that holds `key` now."""
        return self.primaries()[0]

    def keys(self, pattern: str = "*") -> list[str]:
        """Names of all keys that match, sorted, over all primaries."""
        found = {key.decode() for server in self.primaries() for key in server.client.scan_iter(pattern, count=1000)}
        return sorted(found)
