"""A Redis Cluster of three primaries with a replica each; a dead primary is replaced within a few seconds."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from devtools.topologies.base import Topology, TopologyError, wait_until
from devtools.topologies.ports import free_port
from devtools.topologies.server import Server, start_together

__all__ = ["Cluster"]

PRIMARIES = 3
SLOTS = 16_384
NODE_TIMEOUT_MS = 1_500


class Cluster(Topology):
    """`redis-0` to `redis-2` begin as primaries, `redis-3` to `redis-5` as their replicas. Data outlives a restart."""

    kind = "cluster"

    def __init__(self, directory: Path) -> None:
        self.servers = []
        for i in range(2 * PRIMARIES):
            arguments = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
            arguments += ["--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-replica-validity-factor", "0"]
            arguments += ["--save", "", "--appendonly", "yes", "--repl-diskless-sync-delay", "0"]
            arguments += ["--maxmemory-policy", "noeviction"]
            self.servers.append(Server(f"redis-{i}", directory / f"redis-{i}", arguments=arguments))

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(s.address for s in self.servers)}"

    @property
    def can_fail_over(self) -> bool:
        return True

    def start(self) -> None:
        start_together(self.servers)
        first, *others = self.servers
        bounds = [SLOTS * i // PRIMARIES for i in range(PRIMARIES + 1)]
        for i, (begin, end) in enumerate(pairwise(bounds)):
            self.servers[i].ask("CLUSTER", "ADDSLOTSRANGE", begin, end - 1)
        for i, server in enumerate(self.servers):
            # Each its own: else the servers have to settle who yields, one per round of gossip.
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for server in others:
            server.ask("CLUSTER", "MEET", "127.0.0.1", first.port, _bus_port(first))
        wait_until(self._all_acquainted, "every server of the cluster knows the others")
        for i in range(PRIMARIES):
            leader = _text(self.servers[i].ask("CLUSTER", "MYID"))
            self.servers[PRIMARIES + i].ask("CLUSTER", "REPLICATE", leader)
        self.wait_until_healthy()

    def tolerate_silence(self, silence_ms: int) -> None:
        for server in self.servers:
            server.ask("CONFIG", "SET", "cluster-node-timeout", silence_ms)

    @property
    def healthy(self) -> bool:
        """Every server sees every slot covered, three primaries, and each of them followed by its replica."""
        try:
            states = [_text(s.ask("CLUSTER", "INFO")) for s in self.servers]
            replications: list[dict[str, Any]] = [s.client.info("replication") for s in self.servers]
            seen = [self._count_primaries(s) for s in self.servers]
        except redis.exceptions.RedisError:
            return False
        leaders = [r for r in replications if r["role"] == "master"]
        return (
            all("cluster_state:ok" in state for state in states)
            and len(leaders) == PRIMARIES
            and all(leader["connected_slaves"] >= 1 for leader in leaders)
            and all(r["master_link_status"] == "up" for r in replications if r["role"] == "slave")
            and set(seen) == {PRIMARIES}
        )

    def primaries(self) -> list[Server]:
        """Those that hold slots, in the order of their slots, by the word of the first server that sees all of them."""
        for server in self.servers:
            try:
                ranges = server.ask("CLUSTER", "SLOTS") if server.alive else []
            except redis.exceptions.RedisError:
                continue
            owners = {begin: int(port) for begin, port in _owners(ranges)}
            if owners:
                ports = list(dict.fromkeys(owners[begin] for begin in sorted(owners)))
                return [s for port in ports for s in self.servers if s.port == port and s.alive]
        raise TopologyError("no server of the cluster answers")

    def holder(self, key: str) -> Server:
        slot = key_slot(key.encode())
        for server in self.primaries():
            ranges = server.ask("CLUSTER", "SLOTS")
            for begin, end, port in _ranges(ranges):
                if begin <= slot <= end:
                    return next(s for s in self.servers if s.port == port)
        raise TopologyError(f"nobody holds slot {slot}")

    def failover(self) -> str:
        self.wait_until_healthy()
        old = self.primaries()[0]
        replica = self._replica_of(old)
        replica.ask("CLUSTER", "FAILOVER")
        wait_until(lambda: old not in self.primaries() and _leads(replica), "the replica is a primary")
        return replica.name

    def await_failover(self, name: str) -> str:
        """After `kill_primary` or `pause`: returns once three others than `name` are primaries; the name of the new."""
        before = {s.name for s in self.servers[:PRIMARIES]}
        dead = self.server(name)

        def replaced() -> bool:
            leaders = [s for s in self.servers if s is not dead and s.alive and _leads(s)]
            return len(leaders) == PRIMARIES

        wait_until(replaced, "a replica has taken the place of the dead primary")
        return next((s.name for s in self.primaries() if s.name not in before), self.primaries()[0].name)

    def _replica_of(self, leader: Server) -> Server:
        for server in self.servers:
            replication: dict[str, Any] = server.client.info("replication")
            if replication["role"] == "slave" and replication["master_port"] == leader.port:
                return server
        raise TopologyError(f"{leader.name} has no replica")

    def _all_acquainted(self) -> bool:
        return all(f"cluster_known_nodes:{len(self.servers)}" in _text(s.ask("CLUSTER", "INFO")) for s in self.servers)

    @staticmethod
    def _count_primaries(server: Server) -> int:
        ranges = server.ask("CLUSTER", "SLOTS")
        return len({port for _, port in _owners(ranges)})


def _bus_port(server: Server) -> int:
    """The port of a server's cluster bus."""
    return int(server.ask("CONFIG", "GET", "cluster-port")[1])


def _leads(server: Server) -> bool:
    return bool(server.client.info("replication")["role"] == "master")


def _ranges(reply: Any) -> list[tuple[int, int, int]]:
    # redis-py gives {(begin, end): {"primary": (host, port), ...}}, a newer one may give the server's own list.
    if isinstance(reply, dict):
        return [(int(b), int(e), int(found["primary"][1])) for (b, e), found in reply.items()]
    return [(int(entry[0]), int(entry[1]), int(entry[2][1])) for entry in reply]


def _owners(reply: Any) -> list[tuple[int, int]]:
    return [(begin, port) for begin, _, port in _ranges(reply)]


def _text(reply: Any) -> str:
    if isinstance(reply, dict):
        return "\n".join(f"{k}:{v}" for k, v in reply.items())
    return reply.decode() if isinstance(reply, bytes) else str(reply)
