"""The processes: what runs, what it uses, how REST does on it, and how it comes and goes."""

from dataclasses import replace

from devtools.dashboards.model import Dashboard, Kind, Row, Unit, lines, quantiles, share, stacked

__all__ = ["NODES"]

_TABLE = replace(
    lines(
        "Nodes",
        "Each node with its version and how it is now.",
        ("max by (instance, version, python) (aip_build_info{@node})", "up"),
        ("max by (instance) (aip_ready{@node})", "ready"),
        ("max by (instance) (aip_lease_held{@node})", "lease"),
        ("max by (instance) (aip_draining{@node})", "draining"),
        ("sum by (instance) (aip_connections{@node})", "connections"),
        ("sum by (instance) (aip_sessions{@node})", "sessions"),
        ("max by (instance) (aip_background_tasks{@node})", "background tasks"),
    ),
    kind=Kind.TABLE,
    width=24,
)

_PROCESS = Row(
    "Process",
    (
        lines(
            "Processor",
            "Of one core. A node is one process with one event loop: at 1 it is full.",
            ("sum by (instance) (rate(process_cpu_seconds_total{@node}[@rate]))", "{{instance}}"),
            unit=Unit.SHARE,
        ).limits(0.7, 0.9),
        lines(
            "Lag of the event loop, 99 %",
            "One wake-up in a hundred comes that late. From a recording rule.",
            ("instance:aip_event_loop_lag_seconds:p99_rate5m{@node}", "{{instance}}"),
            unit=Unit.SECONDS,
        ).limits(0.1, 0.25),
        lines(
            "Memory",
            "Resident.",
            ("sum by (instance) (process_resident_memory_bytes{@node})", "{{instance}}"),
            unit=Unit.BYTES,
        ),
        share(
            "File descriptors",
            "Open, of those that may be.",
            ("max by (instance) (process_open_fds{@node} / process_max_fds{@node})", "{{instance}}"),
        ).limits(0.7, 0.8),
        lines(
            "Age",
            "Since the process started. Saw teeth: it keeps ending.",
            ("time() - max by (instance) (process_start_time_seconds{@node})", "{{instance}}"),
            unit=Unit.SECONDS,
        ),
        lines(
            "Garbage collections",
            "Of the oldest generation, each of which stops the node for a moment.",
            ('sum by (instance) (rate(python_gc_collections_total{@node,generation="2"}[@rate]))', "{{instance}}"),
            unit=Unit.PER_S,
        ),
    ),
)

_REST = Row(
    "REST",
    (
        stacked(
            "Requests by route",
            "The route's pattern; none is what fits no route.",
            (
                "sum by (method, route) (rate(aip_http_request_duration_seconds_count{@node}[@rate]))",
                "{{method}} {{route}}",
            ),
            unit=Unit.PER_S,
        ),
        lines(
            "Errors of ours by route",
            "Answered with 5xx.",
            (
                (
                    'sum by (method, route) (rate(aip_http_request_duration_seconds_count{@node,status=~"5.."}[@rate]))'
                    " or vector(0)"
                ),
                "{{method}} {{route}}",
            ),
            unit=Unit.PER_S,
        ),
        quantiles(
            "How long, by route",
            "With ?wait= and event streams it is the client who decides how long.",
            "aip_http_request_duration_seconds",
            by="route",
        ),
        share(
            "Of the limits",
            "The largest share of any node: requests worked on, those that wait for a result, event streams.",
            ("max(aip_http_requests_working{@node} / aip_http_requests_limit{@node})", "worked on"),
            ("max(aip_http_requests_waiting{@node} / aip_http_requests_waiting_limit{@node})", "waiting"),
            ("max(aip_http_event_streams{@node} / aip_http_event_streams_limit{@node})", "event streams"),
        ).limits(0.7, 0.8),
        lines(
            "Background tasks",
            "Of asyncio. They grow with clients and sessions, and shrink with them.",
            ("sum by (instance) (aip_background_tasks{@node})", "{{instance}}"),
        ),
        stacked(
            "Sessions by node",
            "Under way on its devices.",
            ("sum by (instance) (aip_sessions{@node})", "{{instance}}"),
        ),
    ),
)

_LIFE = Row(
    "Coming and going",
    (
        lines(
            "Drains",
            "1 while a node is being emptied, and after that.",
            ("max by (instance) (aip_draining{@node})", "{{instance}}"),
        ),
        lines(
            "Asked to move",
            "Sockets that a drain asked to go to another node, and drains at whose deadline somebody was left.",
            ("sum(rate(aip_drain_moved_total{@node}[@rate]))", "moved"),
            ("sum(rate(aip_drain_deadlines_exceeded_total{@node}[@rate]))", "deadlines exceeded"),
            unit=Unit.PER_S,
        ),
        lines(
            "Losses",
            "Leases that a node found gone, and dead nodes that others settled, within five minutes.",
            ("sum(increase(aip_leases_lost_total{@node}[5m]))", "leases lost"),
            ("sum(increase(aip_nodes_reaped_total{@node}[5m]))", "dead nodes settled"),
        ),
    ),
)

NODES = Dashboard(
    "nodes",
    "Nodes",
    "What runs, what it uses, how REST does on it, and how it comes and goes.",
    (Row("Now", (_TABLE,)), _PROCESS, _REST, _LIFE),
)
