"""Real Redis servers for tests and for `scripts/chaos`: alone, under Sentinel, as a Cluster; started, broken, mended.

Unlike the rest of `devtools` it needs the environment (redis-py). `open_topology(kind, directory)` makes one; nothing
runs before `start`, nothing is left after `dispose`. All of it listens on loopback ports that no other run has.
"""

from pathlib import Path

from devtools.topologies.base import Topology, TopologyError
from devtools.topologies.certificates import Certificates, make_certificates
from devtools.topologies.cluster import Cluster
from devtools.topologies.ports import free_port, free_ports, is_free
from devtools.topologies.sentinel import Sentinel
from devtools.topologies.server import Server, redis_program, start_together
from devtools.topologies.single import Single

__all__ = [
    "KINDS",
    "Certificates",
    "Cluster",
    "Sentinel",
    "Server",
    "Single",
    "Topology",
    "TopologyError",
    "free_port",
    "free_ports",
    "is_free",
    "make_certificates",
    "open_topology",
    "redis_program",
    "start_together",
]

KINDS = ("single", "sentinel", "cluster")


def open_topology(kind: str, directory: Path) -> Topology:
    """A topology of that kind, its files in `directory`. Raises ValueError for an unknown kind."""
    if kind == "single":
        return Single(directory)
    if kind == "sentinel":
        return Sentinel(directory)
    if kind == "cluster":
        return Cluster(directory)
    raise ValueError(f"no Redis topology {kind!r}: there are {', '.join(KINDS)}")
