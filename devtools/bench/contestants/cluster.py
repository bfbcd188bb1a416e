"""The cluster: `aip-node` processes with their settings as shipped, or as an operator sets them for a large fleet."""

import sys
from collections.abc import Mapping, Sequence

from devtools.bench.contestants.base import HOST, Contestant, Program
from devtools.bench.fleet import AipDevice
from devtools.service import node_environment

__all__ = ["FLEET_SETTINGS", "cluster"]

# Who expects thousands of devices to arrive together (a network that comes back, a node that is replaced) lets them
# in together: admission is there to protect a node from more than its fleet, not from its fleet.
FLEET_SETTINGS = {
    "connect_rate_per_s": "5000",
    "connect_burst": "12000",
    "max_unregistered": "12000",
    "max_sessions_per_node": "20000",
}


class _Cluster(Contestant):
    def __init__(self, nodes: int, settings: Mapping[str, str], *, spread: bool) -> None:
        super().__init__("cluster", AipDevice, nodes=nodes, completes=True, spread=spread)
        self._settings = settings

    def programs(self, redis_url: str, ports: Sequence[int]) -> list[Program]:
        return [self._node(f"node-{chr(ord('a') + i)}", redis_url, port) for i, port in enumerate(ports)]

    def _node(self, name: str, redis_url: str, port: int) -> Program:
        given = {"redis_url": redis_url, "host": HOST, "port": str(port), "node_id": name}
        # All the load comes from one address.
        given |= {"address_share": "1", **self._settings}
        return Program(name, [sys.executable, "-m", "node"], node_environment(**given), port, "/readyz")


def cluster(nodes: int = 2, settings: Mapping[str, str] | None = None, *, spread: bool = False) -> Contestant:
    """So many nodes. REST goes to the last and sockets to the first; with `spread`, both go to all of them."""
    return _Cluster(nodes, settings or {}, spread=spread)
