"""The way of a task: dispatched, delivered, acknowledged, run, ended; and the models that plan some of them."""

from devtools.dashboards.model import Dashboard, Row, Unit, lines, quantiles, share, stacked

__all__ = ["TASKS"]

DISPATCH = '@node,method="POST",route="/api/dispatch"'

_DISPATCH = Row(
    "Dispatch",
    (
        stacked(
            "Accepted",
            "Tasks that were taken, and repetitions that got the first answer again.",
            ('sum by (outcome) (rate(aip_dispatches_total{@node,outcome=~"accepted|replayed"}[@rate]))', "{{outcome}}"),
            unit=Unit.PER_S,
        ),
        lines(
            "Not accepted",
            "unavailable and error are ours, inbox_full and too_many_sessions overload, the rest is what was asked.",
            (
                'sum by (outcome) (rate(aip_dispatches_total{@node,outcome!~"accepted|replayed"}[@rate]))',
                "{{outcome}}",
            ),
            unit=Unit.PER_S,
        ),
        quantiles(
            "Until a dispatch is answered",
            "From the head of POST /api/dispatch to the end of its answer.",
            "aip_http_request_duration_seconds",
            select=DISPATCH,
        ).limits(0.1, 0.25),
        share(
            "Dispatches that missed the objective",
            "Took over 0.25 s or failed with 5xx, of all over REST. The objective allows 1 %. From recording rules.",
            ("max(job:aip_dispatch_slo_errors:ratio_rate5m{@cluster})", "over 5 min"),
            ("max(job:aip_dispatch_slo_errors:ratio_rate30m{@cluster})", "over 30 min"),
            ("max(job:aip_dispatch_slo_errors:ratio_rate1h{@cluster})", "over 1 h"),
            ("max(job:aip_dispatch_slo_errors:ratio_rate6h{@cluster})", "over 6 h"),
        )
        .limits(0.06, 0.144)
        .wide(12),
        share(
            "Dispatches that failed on our side",
            "Answered with 503 or 500, over five minutes, by cluster. Alerts at 5 %. From a recording rule.",
            ("job:aip_dispatches_failed:ratio_rate5m{@cluster}", "{{namespace}} {{job}}"),
        )
        .limits(0.01, 0.05)
        .wide(12),
    ),
)

_STAGES = Row(
    "Stages",
    (
        quantiles(
            "Accepted → delivered",
            "Until the task is handed to the device's socket. Tasks that wait for a device that is away are in here.",
            "aip_task_delivery_seconds",
        ).wide(12),
        quantiles(
            "Delivered → acknowledged",
            "From the socket to the device's first message about the task. This is the device and the network to it.",
            "aip_task_acknowledgement_seconds",
        ).wide(12),
        quantiles(
            "Running",
            "From the first command to the end, by the state in which it ended.",
            "aip_task_run_seconds",
            by="state",
        ).wide(12),
        quantiles(
            "End to end",
            "From the dispatch to the end, by the state in which it ended.",
            "aip_session_duration_seconds",
            by="state",
        ).wide(12),
    ),
)

_SESSIONS = Row(
    "Sessions",
    (
        stacked(
            "Under way",
            "On the devices of the chosen nodes; dispatched are those at work on nothing yet.",
            ("sum by (state) (aip_sessions{@node})", "{{state}}"),
        ),
        stacked(
            "Ended",
            "By their last state, on the node that stored it.",
            ("sum by (state) (rate(aip_sessions_ended_total{@node}[@rate]))", "{{state}}"),
            unit=Unit.PER_S,
        ),
        share(
            "Of those that ended",
            "How many did not complete. Which of that is normal depends on the tasks; timed_out alerts at 10 %.",
            (
                (
                    'sum by (state) (rate(aip_sessions_ended_total{@node,state!="completed"}[@rate]))'
                    " / scalar(clamp_min(sum(rate(aip_sessions_ended_total{@node}[@rate])), 1e-9))"
                ),
                "{{state}}",
            ),
        ),
        lines(
            "Too late",
            "Ends that came after another end, and results for no session of the sender. The first end counts; "
            "many of them mean devices that repeat themselves, or sessions that time out too early.",
            ("sum(rate(aip_session_late_ends_total{@node}[@rate]))", "ends"),
            ("sum(rate(aip_results_dropped_total{@node}[@rate]))", "results"),
            unit=Unit.PER_S,
        ),
        lines(
            "To be looked at later",
            "Clients that are away, tasks that may wait for their device, and ends that are being told.",
            ("max(aip_cluster_due{@cluster})", "due"),
        ),
        lines(
            "Overdue",
            "How long the oldest of those has been due. Alerts at one minute: then nobody looks.",
            ("max(aip_cluster_due_overdue_seconds{@cluster})", "overdue"),
            unit=Unit.SECONDS,
        ).limits(10, 60),
    ),
)

_MODELS = Row(
    "Models",
    (
        stacked(
            "Answers of the model",
            "That a planner used; error: the endpoint gave none, and the session failed.",
            ("sum by (outcome) (rate(aip_llm_calls_total{@node}[@rate]))", "{{outcome}}"),
            unit=Unit.PER_S,
        ),
        quantiles(
            "Until the model answers", "One answer, repetitions within it included.", "aip_llm_call_duration_seconds"
        ),
        stacked(
            "Tokens per second",
            "What the endpoint said it has used.",
            ("sum by (kind) (rate(aip_llm_tokens_total{@node}[@rate]))", "{{kind}}"),
        ),
        lines(
            "Tokens per hour",
            "At the pace of the last hour, by cluster. From a recording rule.",
            ("job:aip_llm_tokens:rate1h{@cluster} * 3600", "{{namespace}} {{job}}"),
        ).wide(12),
        share(
            "Calls without an answer",
            "Of all calls to the endpoint. Alerts at 10 %.",
            (
                (
                    'sum(rate(aip_llm_calls_total{@node,outcome="error"}[@rate]))'
                    " / clamp_min(sum(rate(aip_llm_calls_total{@node}[@rate])), 1e-9)"
                ),
                "error",
            ),
        )
        .limits(0.05, 0.1)
        .wide(12),
    ),
)

TASKS = Dashboard(
    "tasks",
    "Tasks",
    "Where tasks spend their time, how they end, and what the models cost.",
    (_DISPATCH, _STAGES, _SESSIONS, _MODELS),
)
