"""All metrics of a node, in one place. Prefix `aip_`, base units, labels from closed sets only.

No label ever names a client, a session or a task: ten thousand clients must add no series. WebSocket message types
are counted by the protocol's own names, and anything else as `invalid`, since a peer chooses what it sends. HTTP
routes are patterns, never paths.
"""

from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

__all__ = ["Limit", "Metrics", "package_version"]

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_TASKS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600)


def package_version() -> str:
    """The installed version of the distribution."""
    try:
        return version("aip-cluster")
    except PackageNotFoundError:
        return "0.0.0"


class Limit(StrEnum):
    """The limits that overload meets."""

    CONNECT_RATE = "connect_rate"
    CONNECTIONS = "connections"
    UNREGISTERED = "unregistered"
    TCP_CONNECTIONS = "tcp_connections"
    HEAD_TIMEOUT = "head_timeout"
    HEAD_BYTES = "head_bytes"
    MESSAGES = "messages"
    REQUESTS = "requests"
    WAITERS = "waiters"
    SESSIONS_PER_DEVICE = "sessions_per_device"
    SESSIONS_PER_NODE = "sessions_per_node"


class Metrics:
    """The metrics of one node, in a registry of their own."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        Info("aip_build", "Version of the node", registry=r).info({"version": package_version()})
        self.connections = Gauge("aip_connections", "Registered sockets on this node", ["client_type"], registry=r)
        self.ws_messages = Counter("aip_ws_messages", "WebSocket messages", ["direction", "type"], registry=r)
        self.ws_closes = Counter("aip_ws_closes", "Sockets closed by this node", ["reason"], registry=r)
        self.registrations = Counter("aip_registrations", "Attempts to register", ["outcome"], registry=r)
        self.takeovers = Counter("aip_takeovers", "Sockets that took a held client over", ["proof"], registry=r)
        self.refusals = Counter("aip_refusals", "What was refused by a limit", ["reason"], registry=r)
        self.dispatches = Counter("aip_dispatches", "Attempts to dispatch a task", ["outcome"], registry=r)
        self.sessions_ended = Counter("aip_sessions_ended", "Sessions that this node ended", ["state"], registry=r)
        self.session_seconds = Histogram(
            "aip_session_duration_seconds",
            "From dispatch to end",
            ["state"],
            buckets=_TASKS,
            registry=r,
        )
        self.late_ends = Counter("aip_session_late_ends", "Ends that came after another end", registry=r)
        self.dropped_results = Counter("aip_results_dropped", "Results for no session of the sender", registry=r)
        self.llm_calls = Counter("aip_llm_calls", "Answers of a model that a planner used", ["outcome"], registry=r)
        self.llm_tokens = Counter("aip_llm_tokens", "Tokens of those", ["kind"], registry=r)
        self.http_seconds = Histogram(
            "aip_http_request_duration_seconds",
            "REST requests",
            ["method", "route", "status"],
            buckets=(*_FAST, 15, 60),
            registry=r,
        )
        self.redis_seconds = Histogram(
            "aip_redis_pipeline_duration_seconds", "Round trips to Redis", buckets=_FAST, registry=r
        )
        self.redis_errors = Counter("aip_redis_errors", "Round trips to Redis that failed", registry=r)
        self.bus_frames = Counter("aip_bus_frames", "Frames heard on the bus", ["kind"], registry=r)
        self.bus_gaps = Counter("aip_bus_gaps", "Times that frames of the bus may have been missed", registry=r)
        self.bus_probe_seconds = Histogram(
            "aip_bus_probe_seconds", "Until this node hears what it says to itself", buckets=_FAST, registry=r
        )
        self.bus_probe_misses = Counter("aip_bus_probe_misses", "Probes unheard when the next one was due", registry=r)
        self.bus_resubscriptions = Counter("aip_bus_resubscriptions", "Times the bus subscribed anew", registry=r)
        self.reaped_nodes = Counter("aip_nodes_reaped", "Dead nodes settled by this node", registry=r)
        self.draining = Gauge("aip_draining", "1 while this node is being emptied, and after that", registry=r)
        self.drain_moved = Counter("aip_drain_moved", "Sockets that a drain asked to move", registry=r)
        self.drain_seconds = Histogram("aip_drain_duration_seconds", "Drains", buckets=_TASKS, registry=r)
        self.drain_deadlines_exceeded = Counter(
            "aip_drain_deadlines_exceeded", "Drains at whose deadline somebody had not moved", registry=r
        )
        self.leases_lost = Counter("aip_leases_lost", "Times this node found its lease gone", registry=r)

    def observe_redis(self, seconds: float, failed: bool) -> None:
        """Count one round trip to Redis."""
        self.redis_seconds.observe(seconds)
        if failed:
            self.redis_errors.inc()

    def probe_heard(self, seconds: float) -> None:
        """A probe came back over the bus."""
        self.bus_probe_seconds.observe(seconds)

    def probe_missed(self) -> None:
        """A probe did not come back in time."""
        self.bus_probe_misses.inc()

    def resubscribed(self) -> None:
        """The bus stands again."""
        self.bus_resubscriptions.inc()

    def expose(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
