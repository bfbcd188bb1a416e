"""Redis as the nodes see it. What Redis says of itself is for redis_exporter's own dashboard."""

from devtools.dashboards.model import Dashboard, Row, Unit, lines, number, quantiles, share

__all__ = ["REDIS"]

DURATION = "aip_redis_pipeline_duration_seconds"
CALLS = "sum(rate(aip_redis_pipeline_duration_seconds_count{@node}[@rate]))"
ERRORS = "sum(rate(aip_redis_errors_total{@node}[@rate]))"

_NOW = Row(
    "Now",
    (
        number("Round trips", "Pipelines of one or more commands.", (CALLS, "calls"), unit=Unit.PER_S),
        number(
            "Failed", "Of all round trips.", (f"{ERRORS} / clamp_min({CALLS}, 1e-9)", "failed"), unit=Unit.SHARE
        ).limits(0.001, 0.01),
        number(
            "99 % within",
            "Round trips of all chosen nodes.",
            (
                f"histogram_quantile(0.99, sum by (le) (rate({DURATION}_bucket{{@node}}[@rate])))",
                "99 %",
            ),
            unit=Unit.SECONDS,
        ).limits(0.05, 0.1),
        number("Waiting", "Calls that are not on their way yet.", ("sum(aip_redis_calls_waiting{@node})", "waiting")),
        number(
            "Leases held",
            "Nodes whose lease stands, as far as they can know.",
            ("sum(aip_lease_held{@node})", "leases"),
        ).at_least(1, 2),
        number("Subscribed", "Nodes whose subscription stands.", ("sum(aip_bus_subscribed{@node})", "nodes")).at_least(
            1, 2
        ),
    ),
)

_CALLS = Row(
    "Calls",
    (
        lines(
            "Round trips by node",
            "Pipelines of one or more commands.",
            ("sum by (instance) (rate(aip_redis_pipeline_duration_seconds_count{@node}[@rate]))", "{{instance}}"),
            unit=Unit.PER_S,
        ),
        quantiles("How long", "All chosen nodes together.", "aip_redis_pipeline_duration_seconds").limits(0.05, 0.1),
        lines(
            "99 % within, by node",
            "One node alone is slow: look at it, or the way from it. All are: look at Redis. From a recording rule.",
            ("instance:aip_redis_pipeline_duration_seconds:p99_rate5m{@node}", "{{instance}}"),
            unit=Unit.SECONDS,
        ).limits(0.05, 0.1),
        lines(
            "Failed by node",
            "Round trips that failed: no answer in time, no connection, or a refusal.",
            ("sum by (instance) (rate(aip_redis_errors_total{@node}[@rate]))", "{{instance}}"),
            unit=Unit.PER_S,
        ),
        share(
            "Failed, of all",
            "Over two minutes, by node. From a recording rule.",
            ("instance:aip_redis_errors:ratio_rate2m{@node}", "{{instance}}"),
        ).limits(0.01, 0.5),
        share(
            "Waiting, of the limit",
            "Calls that are not on their way yet. At 1 calls fail at once.",
            (
                "max by (instance) (aip_redis_calls_waiting{@node} / aip_redis_calls_waiting_limit{@node})",
                "{{instance}}",
            ),
        ).limits(0.3, 0.5),
    ),
)

_LOAD = Row(
    "What for",
    (
        lines(
            "Round trips per dispatch",
            "All of them over the dispatches: leases and probes count too, so that a cluster with little to do shows a "
            "high figure.",
            (f"{CALLS} / (sum(rate(aip_dispatches_total{{@node}}[@rate])) > 0) or vector(0)", "round trips"),
        ),
        lines(
            "Renewals of leases",
            "Once a second and node by default. Failed ones for as long as a lease lasts cost the node its clients.",
            ("sum by (outcome) (rate(aip_lease_renewals_total{@node}[@rate]))", "{{outcome}}"),
            unit=Unit.PER_S,
        ),
        quantiles(
            "Round trip over the bus",
            "The same server by another way: publish and subscribe.",
            "aip_bus_probe_seconds",
        ),
    ),
)

REDIS = Dashboard(
    "redis",
    "Redis",
    "How fast and how reliably Redis answers the nodes. Its memory, its replicas and its own latency: redis_exporter.",
    (_NOW, _CALLS, _LOAD),
)
