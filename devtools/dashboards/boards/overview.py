"""Whether the cluster serves its users, on one page; where it does not, another dashboard says why."""

from devtools.dashboards.model import Dashboard, Row, Unit, lines, number, quantiles, share, stacked

__all__ = ["OVERVIEW"]

DISPATCH = '@node,method="POST",route="/api/dispatch"'
FAILED = (
    'sum(rate(aip_dispatches_total{@node,outcome=~"unavailable|error"}[@rate]))'
    " / clamp_min(sum(rate(aip_dispatches_total{@node}[@rate])), 1e-9)"
)

_NOW = Row(
    "Now",
    (
        number("Ready nodes", "Nodes that take work.", ("sum(aip_ready{@node})", "ready")).at_least(1, 2),
        number(
            "Devices",
            "Devices that are registered on any node, as the cluster knows it.",
            ('max(aip_cluster_connections{@cluster,client_type="device"})', "devices"),
        ),
        number(
            "Sessions under way",
            "On connected devices, as the cluster knows it. Those that wait for their device are not among them.",
            ("sum(max by (state) (aip_cluster_sessions{@cluster}))", "sessions"),
        ),
        number(
            "Dispatches",
            "Attempts to dispatch a task, whatever came of them.",
            ("sum(rate(aip_dispatches_total{@node}[@rate]))", "dispatches"),
            unit=Unit.PER_S,
        ),
        number(
            "Dispatches that failed on our side",
            "Answered with 503 or 500. What was asked wrongly, or of a device that is away, is not counted.",
            (FAILED, "failed"),
            unit=Unit.SHARE,
        ).limits(0.01, 0.05),
        number(
            "Alerts",
            "Alerts of this product that fire now.",
            ('count(ALERTS{alertname=~"Aip.+",alertstate="firing"}) or vector(0)', "alerts"),
        ).limits(1, 5),
    ),
)

_WORK = Row(
    "Work",
    (
        stacked(
            "Dispatches by outcome",
            "What came of attempts to dispatch a task, by REST and over sockets.",
            ("sum by (outcome) (rate(aip_dispatches_total{@node}[@rate]))", "{{outcome}}"),
            unit=Unit.PER_S,
        ),
        quantiles(
            "Until a dispatch is answered",
            "From the head of POST /api/dispatch to the end of its answer. The objective: 99 % within 0.25 s.",
            "aip_http_request_duration_seconds",
            select=DISPATCH,
        ).limits(0.1, 0.25),
        lines(
            "Error budget",
            "How many times faster than allowed the budget is used up: 1 % of the dispatches may be slow or fail. "
            "Alerts at 14.4 over an hour, at 6 over six. From recording rules.",
            ("max(job:aip_dispatch_slo_errors:ratio_rate5m{@cluster}) / 0.01", "over 5 min"),
            ("max(job:aip_dispatch_slo_errors:ratio_rate1h{@cluster}) / 0.01", "over 1 h"),
            ("max(job:aip_dispatch_slo_errors:ratio_rate6h{@cluster}) / 0.01", "over 6 h"),
        ).limits(6, 14.4),
        stacked(
            "Sessions that ended",
            "By their last state.",
            ("sum by (state) (rate(aip_sessions_ended_total{@node}[@rate]))", "{{state}}"),
            unit=Unit.PER_S,
        ),
        quantiles(
            "From dispatch to device",
            "Until the task is handed to the device's socket. Tasks that wait for a device that is away are in here.",
            "aip_task_delivery_seconds",
        ),
        quantiles(
            "From dispatch to end",
            "The whole life of a session, whatever its end.",
            "aip_session_duration_seconds",
        ),
    ),
)

_GROUND = Row(
    "What it stands on",
    (
        stacked(
            "Connections",
            "Registered sockets.",
            ("sum by (client_type) (aip_connections{@node})", "{{client_type}}"),
        ),
        lines(
            "Messages",
            "Over WebSockets, in both directions.",
            ("sum by (direction) (rate(aip_ws_messages_total{@node}[@rate]))", "{{direction}}"),
            unit=Unit.PER_S,
        ),
        stacked(
            "REST requests by status",
            "All routes.",
            ("sum by (status) (rate(aip_http_request_duration_seconds_count{@node}[@rate]))", "{{status}}"),
            unit=Unit.PER_S,
        ),
        quantiles(
            "Round trip to Redis", "Pipelines of one or more commands.", "aip_redis_pipeline_duration_seconds"
        ).limits(0.05, 0.1),
        quantiles(
            "Round trip over the bus",
            "Until a node hears what it says to itself over Redis' pub/sub, on the path that others use.",
            "aip_bus_probe_seconds",
        ),
        quantiles(
            "Lag of the event loop",
            "How much later than asked nodes wake up. Above 0.25 s a node has more to do than its processor can.",
            "aip_event_loop_lag_seconds",
        ).limits(0.1, 0.25),
        share(
            "How full the fullest node is",
            "Of its limits, the largest share that any node has used.",
            ("max(sum without (client_type) (aip_connections{@node}) / aip_connections_limit{@node})", "connections"),
            ("max(sum without (state) (aip_sessions{@node}) / aip_sessions_limit{@node})", "sessions"),
            ("max(aip_http_requests_working{@node} / aip_http_requests_limit{@node})", "requests"),
            ("max(process_open_fds{@node} / process_max_fds{@node})", "file descriptors"),
        ).limits(0.7, 0.8),
        lines(
            "Refused by a limit",
            "Each is answered with a time after which to ask again.",
            ("sum by (reason) (rate(aip_refusals_total{@node}[@rate]))", "{{reason}}"),
            unit=Unit.PER_S,
        ),
        lines(
            "Nodes",
            "That hold a lease, as the cluster knows it, and how many of those Prometheus knows answer it.",
            ("max by (state) (aip_cluster_nodes{@cluster})", "{{state}}"),
            ("sum(up{@node})", "seen by Prometheus"),
        ),
    ),
)

OVERVIEW = Dashboard(
    "overview",
    "Overview",
    "Whether the cluster serves its users, and whether something is about to keep it from that.",
    (_NOW, _WORK, _GROUND),
)
