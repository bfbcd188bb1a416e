"""Who is connected, what is said on the sockets, and whether the nodes hear each other."""

from devtools.dashboards.model import Dashboard, Row, Unit, lines, quantiles, share, stacked

__all__ = ["SOCKETS"]

_CONNECTIONS = Row(
    "Connections",
    (
        stacked(
            "Registered",
            "Sockets by who is behind them.",
            ("sum by (client_type) (aip_connections{@node})", "{{client_type}}"),
        ),
        stacked(
            "Registered, by node",
            "Balanced by nginx, which gives new sockets to the node with the fewest.",
            ("sum by (instance) (aip_connections{@node})", "{{instance}}"),
        ),
        share(
            "Of the limit",
            "The largest share of any node. Above 1 new connections are refused with 503.",
            (
                (
                    "max((sum without (client_type) (aip_connections{@node}) + aip_connections_unregistered{@node})"
                    " / aip_connections_limit{@node})"
                ),
                "sockets",
            ),
            ("max(aip_tcp_connections{@node} / aip_tcp_connections_limit{@node})", "TCP connections"),
        ).limits(0.7, 0.8),
        lines(
            "Not registered yet",
            "Sockets that have not said who they are. Those that do not within register_timeout_s are closed.",
            ("sum by (instance) (aip_connections_unregistered{@node})", "{{instance}}"),
        ),
        lines(
            "Registrations",
            "Attempts, by what came of them. A restart moves each client once.",
            ("sum by (outcome) (rate(aip_registrations_total{@node}[@rate]))", "{{outcome}}"),
            unit=Unit.PER_S,
        ),
        lines(
            "Takeovers",
            "Sockets that took over a client that another one held: by its token (its own line broke), by the same "
            "key, or because the old one was silent. Many for long: two processes share an id.",
            ("sum by (proof) (rate(aip_takeovers_total{@node}[@rate]))", "{{proof}}"),
            unit=Unit.PER_S,
        ),
        lines(
            "Closed by a node",
            "Sockets that the node itself closed, and why.",
            ("sum by (reason) (rate(aip_ws_closes_total{@node}[@rate]))", "{{reason}}"),
            unit=Unit.PER_S,
        ).wide(12),
        lines(
            "Refused by a limit",
            "Each is answered with a time after which to ask again.",
            ("sum by (reason) (rate(aip_refusals_total{@node}[@rate]))", "{{reason}}"),
            unit=Unit.PER_S,
        ).wide(12),
    ),
)

_MESSAGES = Row(
    "Messages",
    (
        stacked(
            "In",
            "By type; invalid is what is none of the protocol's.",
            ('sum by (type) (rate(aip_ws_messages_total{@node,direction="in"}[@rate]))', "{{type}}"),
            unit=Unit.PER_S,
        ),
        stacked(
            "Out",
            "By type. What comes ready from an inbox is not among them.",
            ('sum by (type) (rate(aip_ws_messages_total{@node,direction="out"}[@rate]))', "{{type}}"),
            unit=Unit.PER_S,
        ),
        lines(
            "Bytes",
            "Of the messages that came, and of those queued for sending.",
            ("sum(rate(aip_ws_received_bytes_total{@node}[@rate]))", "in"),
            ("sum(rate(aip_ws_sent_bytes_total{@node}[@rate]))", "out"),
            unit=Unit.BYTES_PER_S,
        ),
        quantiles(
            "To handle a message",
            "From reading it to having handled it, by type; what it starts in the background is not in it.",
            "aip_ws_message_duration_seconds",
            by="type",
        ),
        lines(
            "Waiting to be sent",
            "Bytes that clients have not read yet, all sockets of a node together.",
            ("sum by (instance) (aip_ws_send_queue_bytes{@node})", "{{instance}}"),
            unit=Unit.BYTES,
        ),
        share(
            "The slowest reader",
            "Of the bytes that may wait for one socket, how many wait for the one with the most. At 1 it is closed.",
            (
                "max by (instance) (aip_ws_send_queue_largest_bytes{@node} / aip_ws_send_queue_limit_bytes{@node})",
                "{{instance}}",
            ),
        ).limits(0.5, 0.8),
    ),
)

_BUS = Row(
    "Bus",
    (
        stacked(
            "Heard",
            "Frames that nodes heard, by kind. inbox: something is there for one of your devices.",
            ("sum by (kind) (rate(aip_bus_frames_total{@node}[@rate]))", "{{kind}}"),
            unit=Unit.PER_S,
        ),
        stacked(
            "Said",
            "Frames said to a node. Ends and events are said by scripts inside Redis, and counted in a Cluster only.",
            ("sum by (kind) (rate(aip_bus_frames_sent_total{@node}[@rate]))", "{{kind}}"),
            unit=Unit.PER_S,
        ),
        lines(
            "Heard by nobody",
            "The node is dead, or deaf. Nothing is lost by it, it only comes later.",
            ("sum by (kind) (rate(aip_bus_frames_unheard_total{@node}[@rate]))", "{{kind}}"),
            unit=Unit.PER_S,
        ),
        quantiles(
            "Round trip of a probe",
            "Until a node hears what it says to itself, on the path that others use.",
            "aip_bus_probe_seconds",
        ),
        lines(
            "Probes not heard",
            "When the next one was due. Some in a failover of Redis; for long: the node is deaf.",
            ("sum by (instance) (rate(aip_bus_probe_misses_total{@node}[@rate]))", "{{instance}}"),
            unit=Unit.PER_S,
        ),
        lines(
            "Subscribed anew",
            "And how often frames may have been missed: then the node looks through the inboxes of its clients.",
            ("sum(rate(aip_bus_resubscriptions_total{@node}[@rate]))", "subscribed anew"),
            ("sum(rate(aip_bus_gaps_total{@node}[@rate]))", "may have missed something"),
            unit=Unit.PER_S,
        ),
    ),
)

SOCKETS = Dashboard(
    "sockets",
    "Connections and bus",
    "Who is connected, what is said on the sockets, and whether the nodes hear each other.",
    (_CONNECTIONS, _MESSAGES, _BUS),
)
