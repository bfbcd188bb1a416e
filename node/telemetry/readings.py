"""What is read when a scraper asks, and costs nothing until then: queues, sockets, sessions, limits, the cluster.

The node's parts know nothing of it: `Readings` are taken from them by whoever put them together, and made into metrics
here. A number that cannot be had (the cluster's, on a node that does not report for it) is left out, not 0.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

__all__ = ["ClusterReadings", "NodeCollector", "Readings"]


@dataclass(frozen=True, slots=True)
class ClusterReadings:
    """The cluster as one node sees it for all. By state: nodes and sessions; by type: connections."""

    nodes: Mapping[str, int]
    connections: Mapping[str, int]
    sessions: Mapping[str, int]
    due: int
    due_overdue_s: float


@dataclass(frozen=True, slots=True)
class Readings:
    """What a node finds when it looks at itself."""

    requests_working: int
    requests_limit: int
    requests_waiting: int
    requests_waiting_limit: int
    event_streams: int
    event_streams_limit: int
    unregistered: int
    connections_limit: int
    tcp_connections: int
    tcp_connections_limit: int
    queue_bytes: int
    queue_largest_bytes: int
    queue_limit_bytes: int
    sessions_limit: int
    bus_subscribed: bool
    redis_waiting: int
    redis_waiting_limit: int
    redis_used_share: float
    ready: bool
    lease_held: bool
    background_tasks: int
    sessions: Mapping[str, int] = field(default_factory=dict)
    cluster: ClusterReadings | None = None


class NodeCollector(Collector):
    """Asks `read` at every scrape."""

    def __init__(self, registry: CollectorRegistry, read: Callable[[], Readings]) -> None:
        self._read = read
        registry.register(self)

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: whoever registers a collector without it has it read at once, half put together."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One gauge a field."""
        r = self._read()
        for name, meaning, value in (
            ("aip_http_requests_working", "REST requests that are processed now", r.requests_working),
            ("aip_http_requests_limit", "Limit of aip_http_requests_working", r.requests_limit),
            ("aip_http_requests_waiting", "REST requests that wait for a result", r.requests_waiting),
            ("aip_http_requests_waiting_limit", "Limit of aip_http_requests_waiting", r.requests_waiting_limit),
            ("aip_http_event_streams", "Event streams of sessions", r.event_streams),
            ("aip_http_event_streams_limit", "Limit of aip_http_event_streams", r.event_streams_limit),
            ("aip_connections_unregistered", "Sockets that have not registered yet", r.unregistered),
            ("aip_connections_limit", "Limit of sockets", r.connections_limit),
            ("aip_tcp_connections", "TCP connections", r.tcp_connections),
            ("aip_tcp_connections_limit", "Limit of aip_tcp_connections", r.tcp_connections_limit),
            ("aip_ws_send_queue_bytes", "Unsent bytes of all sockets", r.queue_bytes),
            ("aip_ws_send_queue_largest_bytes", "Unsent bytes of the socket with the most", r.queue_largest_bytes),
            ("aip_ws_send_queue_limit_bytes", "Unsent bytes above which a socket is closed", r.queue_limit_bytes),
            ("aip_sessions_limit", "Limit of sessions on this node's devices", r.sessions_limit),
            ("aip_bus_subscribed", "1 while the node is subscribed to the bus", r.bus_subscribed),
            ("aip_redis_calls_waiting", "Calls to Redis that are not sent yet", r.redis_waiting),
            ("aip_redis_calls_waiting_limit", "Limit of aip_redis_calls_waiting", r.redis_waiting_limit),
            ("aip_redis_memory_used_ratio", "Used share of maxmemory, of the fullest Redis server", r.redis_used_share),
            ("aip_ready", "1 while the node holds its lease, receives from the bus and accepts work", r.ready),
            ("aip_lease_held", "1 while the node holds its lease", r.lease_held),
            ("aip_background_tasks", "Running background tasks", r.background_tasks),
        ):
            yield GaugeMetricFamily(name, meaning, value=value)
        yield _by("aip_sessions", "Running sessions on this node's devices", "state", r.sessions)
        if r.cluster is not None:
            yield from _of_the_cluster(r.cluster)


def _of_the_cluster(c: ClusterReadings) -> Iterator[GaugeMetricFamily]:
    yield _by("aip_cluster_nodes", "Nodes that hold a lease", "state", c.nodes)
    yield _by("aip_cluster_connections", "Registered sockets of the cluster", "client_type", c.connections)
    yield _by("aip_cluster_sessions", "Running sessions in the cluster", "state", c.sessions)
    yield GaugeMetricFamily("aip_cluster_due", "Items in the delay queue", value=c.due)
    yield GaugeMetricFamily(
        "aip_cluster_due_overdue_seconds",
        "How long the oldest item of the delay queue has been due",
        value=c.due_overdue_s,
    )


def _by(name: str, meaning: str, label: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
