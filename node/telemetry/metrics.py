"""What a node counts and times, in one place. Prefix `aip_`, base units, labels from closed sets only.

No label ever names a client, a session or a task: ten thousand clients must add no series. WebSocket message types
are counted by the protocol's own names, and anything else as `invalid`, since a peer chooses what it sends. HTTP
routes are patterns, never paths. What can be read when somebody asks is not counted here but in `readings`.

Where a task passes, the child of each label value is bound once, here: `metrics.dispatched["accepted"].inc()`. That
also has every value exposed from the start, so that the first increment is seen as one. `docs/METRICS.md` is the
catalogue, compared with this by a test.
"""

import platform
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client import disable_created_metrics as _leave_out_created
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from aip_cluster.protocol import ClientMessageType, ClientType, ServerMessageType
from aip_cluster.protocol.files import FILE_FRAMES
from aip_cluster.protocol.session_states import TERMINAL

__all__ = ["Limit", "Metrics", "package_version"]

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_STAGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600)
_TASKS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600)
_LAG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_MODELS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120)

_ENDS = sorted(state.value for state in TERMINAL)
_REGISTRATIONS = ("accepted", "duplicate", "invalid", "no_target", "timeout", "unavailable")
_DISPATCHES = (
    *("accepted", "replayed", "invalid", "no_planner", "not_online", "name_taken", "session_exists", "inbox_full"),
    *("too_many_sessions", "quota_reached", "key_reused", "key_busy", "unavailable", "refused", "error"),
)
_CLOSES = (
    *("drained", "unavailable", "register_timeout", "bad_registration", "duplicate_id", "slow_consumer"),
    *("taken_over", "lost_registration", "too_many_messages", "message_too_big", "message_too_slow"),
)
_SAID = ("inbox", "ended", "event", "probe", "probed", "load", "loaded", "evict")

# A third of the lines otherwise, which nothing here asks for. For the whole process: the library knows no other way.
_leave_out_created()  # type: ignore[no-untyped-call]


@cache
def package_version() -> str:
    """The installed version of the server."""
    try:
        return version("aip-cluster-server")
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
    MESSAGE_BYTES = "message_bytes"
    REQUESTS = "requests"
    WAITERS = "waiters"
    EVENT_STREAMS = "event_streams"
    ADDRESS_SHARE = "address_share"
    SESSIONS_PER_DEVICE = "sessions_per_device"
    SESSIONS_PER_NODE = "sessions_per_node"


class Metrics:
    """The metrics of one node, in a registry of their own."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        build = {"version": package_version(), "python": platform.python_version()}
        Info("aip_build", "Version of the server and of Python", registry=r).info(build)
        self._of_sockets(r)
        self._of_tasks(r)
        self._of_redis(r)
        self._of_the_node(r)
        self.http_seconds = Histogram(
            "aip_http_request_duration_seconds",
            "Duration of REST requests",
            ["method", "route", "status"],
            buckets=(*_FAST, 15, 60),
            registry=r,
        )
        # By method, route and status, which are as many as the table of routes allows.
        self._requests: dict[tuple[str, str, int], Histogram] = {}
        ProcessCollector(registry=r)
        GCCollector(registry=r)

    def _of_sockets(self, r: CollectorRegistry) -> None:
        connections = Gauge("aip_connections", "Registered sockets on this node", ["client_type"], registry=r)
        self.connections = {kind: connections.labels(kind) for kind in ClientType}
        messages = Counter("aip_ws_messages", "WebSocket messages", ["direction", "type"], registry=r)
        came = (*ClientMessageType, *FILE_FRAMES, "binary", "invalid")
        self.messages_in = {str(kind): messages.labels("in", kind) for kind in came}
        self.messages_out = {str(kind): messages.labels("out", kind) for kind in ServerMessageType}
        handled = Histogram(
            "aip_ws_message_duration_seconds",
            "Time to handle one message of a client",
            ["type"],
            buckets=_FAST,
            registry=r,
        )
        self.handled = {str(kind): handled.labels(kind) for kind in (*ClientMessageType, *FILE_FRAMES)}
        self.received_bytes = Counter("aip_ws_received_bytes", "Bytes of received messages", registry=r)
        self.sent_bytes = Counter("aip_ws_sent_bytes", "Bytes of the messages queued for sending", registry=r)
        self.ws_closes = Counter("aip_ws_closes", "Sockets closed by this node", ["reason"], registry=r)
        _bind(self.ws_closes, _CLOSES)
        self.registrations = Counter("aip_registrations", "Attempts to register", ["outcome"], registry=r)
        _bind(self.registrations, _REGISTRATIONS)
        self.takeovers = Counter("aip_takeovers", "Sockets that took over a registered client", ["proof"], registry=r)
        _bind(self.takeovers, ("token", "silence"))
        self.refusals = Counter("aip_refusals", "Refusals by a limit", ["reason"], registry=r)
        _bind(self.refusals, Limit)

    def _of_tasks(self, r: CollectorRegistry) -> None:
        dispatches = Counter("aip_dispatches", "Attempts to dispatch a task", ["outcome"], registry=r)
        self.dispatched: Mapping[str, Counter] = _bind(dispatches, _DISPATCHES)
        self.task_delivery = Histogram(
            "aip_task_delivery_seconds", "Time from dispatch to the device's socket", buckets=_STAGES, registry=r
        )
        self.task_acknowledgement = Histogram(
            "aip_task_acknowledgement_seconds",
            "Time from the device's socket to the device's first message about the task",
            buckets=_STAGES,
            registry=r,
        )
        run = Histogram(
            "aip_task_run_seconds",
            "Time from the start of a session's work to its end",
            ["state"],
            buckets=_TASKS,
            registry=r,
        )
        whole = Histogram(
            "aip_session_duration_seconds",
            "Time from dispatch to the end of the session",
            ["state"],
            buckets=_TASKS,
            registry=r,
        )
        self.task_run = {state: run.labels(state) for state in _ENDS}
        self.session_seconds = {state: whole.labels(state) for state in _ENDS}
        ended = Counter("aip_sessions_ended", "Sessions whose end this node stored", ["state"], registry=r)
        self.sessions_ended: Mapping[str, Counter] = _bind(ended, _ENDS)
        self.late_ends = Counter(
            "aip_session_late_ends", "Ends ignored because the session had already ended", registry=r
        )
        self.dropped_results = Counter(
            "aip_results_dropped", "Results ignored because the sender runs no such session", registry=r
        )
        self.llm_calls = Counter("aip_llm_calls", "Answers of a model that a planner used", ["outcome"], registry=r)
        _bind(self.llm_calls, ("act", "finish", "error"))
        self.llm_tokens = Counter("aip_llm_tokens", "Tokens of the calls in aip_llm_calls", ["kind"], registry=r)
        _bind(self.llm_tokens, ("prompt", "completion"))
        self.llm_seconds = Histogram(
            "aip_llm_call_duration_seconds", "Duration of one call to a model", buckets=_MODELS, registry=r
        )

    def _of_redis(self, r: CollectorRegistry) -> None:
        self.redis_seconds = Histogram(
            "aip_redis_pipeline_duration_seconds", "Duration of round trips to Redis", buckets=_FAST, registry=r
        )
        self.redis_errors = Counter("aip_redis_errors", "Round trips to Redis that failed", registry=r)
        heard = Counter("aip_bus_frames", "Frames received from the bus", ["kind"], registry=r)
        self.frames_heard: Mapping[str, Counter] = _bind(heard, (*_SAID, "unknown"))
        said = Counter("aip_bus_frames_sent", "Frames published to a node over the bus", ["kind"], registry=r)
        self._frames_said = _bind(said, _SAID)
        unheard = Counter("aip_bus_frames_unheard", "Frames published without a subscriber", ["kind"], registry=r)
        self._frames_unheard = _bind(unheard, _SAID)
        self.bus_gaps = Counter("aip_bus_gaps", "Times that frames of the bus may have been missed", registry=r)
        self.bus_probe_seconds = Histogram(
            "aip_bus_probe_seconds", "Time until a node receives its own probe over the bus", buckets=_FAST, registry=r
        )
        self.bus_probe_misses = Counter(
            "aip_bus_probe_misses", "Probes not received before the next one was due", registry=r
        )
        self.bus_resubscriptions = Counter("aip_bus_resubscriptions", "Times the bus subscribed again", registry=r)

    def _of_the_node(self, r: CollectorRegistry) -> None:
        renewals = Counter("aip_lease_renewals", "Attempts to renew the lease", ["outcome"], registry=r)
        self.lease_renewals: Mapping[str, Counter] = _bind(renewals, ("renewed", "failed"))
        self.leases_lost = Counter("aip_leases_lost", "Times this node found its lease expired", registry=r)
        self.reaped_nodes = Counter("aip_nodes_reaped", "Dead nodes whose registrations this node removed", registry=r)
        self.draining = Gauge("aip_draining", "1 from the start of a drain until it is taken back", registry=r)
        self.drain_moved = Counter("aip_drain_moved", "Sockets that a drain asked to move", registry=r)
        self.drain_seconds = Histogram("aip_drain_duration_seconds", "Duration of drains", buckets=_TASKS, registry=r)
        self.drain_deadlines_exceeded = Counter(
            "aip_drain_deadlines_exceeded", "Drains with sockets left at the deadline", registry=r
        )
        self.loop_lag = Histogram(
            "aip_event_loop_lag_seconds",
            "How much later than requested the event loop woke up",
            buckets=_LAG,
            registry=r,
        )

    # -- what is counted with more than one word -----------------------------------------------------------------------
    def request(self, method: str, route: str, status: int, seconds: float, exemplar: dict[str, str] | None) -> None:
        """Count one REST request. `method` and `route` are of closed sets."""
        child = self._requests.get((method, route, status))
        if child is None:
            child = self._requests[method, route, status] = self.http_seconds.labels(method, route, str(status))
        child.observe(seconds, exemplar)

    def observe_redis(self, seconds: float, failed: bool) -> None:
        """Count one round trip to Redis."""
        self.redis_seconds.observe(seconds)
        if failed:
            self.redis_errors.inc()

    def frame_said(self, kind: str, receivers: int) -> None:
        """A frame was said to a node."""
        self._frames_said[kind].inc()
        if receivers == 0:
            self._frames_unheard[kind].inc()

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
        """The metrics in Prometheus' classic text format."""
        return generate_latest(self.registry)

    def expose_to(self, accept: str) -> tuple[bytes, str]:
        """The metrics for a scraper that accepts this, and their content type: OpenMetrics, or the classic text."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


def _bind(metric: Counter, values: Iterable[str]) -> dict[str, Counter]:
    """The metric's children, made now."""
    return {str(value): metric.labels(value) for value in values}
