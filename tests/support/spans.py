"""Spans as a test looks at them, whether the SDK kept them in memory or a collector got them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["Span", "exported", "of_sdk", "only"]


@dataclass(frozen=True, slots=True)
class Span:
    """One span; ids in hexadecimal, `parent_id` '' for a root. `node` is the id of the node that made it."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    failed: str | None
    node: str
    start_ns: int
    end_ns: int


def of_sdk(spans: Iterable[ReadableSpan]) -> list[Span]:
    """Those that have ended, as the SDK has them."""
    return [
        Span(
            name=span.name,
            kind=span.kind.name,
            trace_id=f"{span.context.trace_id:032x}",
            span_id=f"{span.context.span_id:016x}",
            parent_id=f"{span.parent.span_id:016x}" if span.parent is not None else "",
            attributes=dict(span.attributes or {}),
            failed=None if span.status.is_unset else str(span.status.description),
            node=str(span.resource.attributes.get("service.instance.id", "")),
            start_ns=span.start_time or 0,
            end_ns=span.end_time or 0,
        )
        for span in spans
        if span.context is not None
    ]


def exported(body: bytes) -> list[Span]:
    """Those of one OTLP request."""
    spans = []
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = {a.key: a.value.string_value for a in of_resource.resource.attributes}
        assert resource["service.name"] == "aip-node"
        for of_scope in of_resource.scope_spans:
            spans += [
                Span(
                    name=span.name,
                    kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    attributes={a.key: a.value.string_value or a.value.int_value for a in span.attributes},
                    failed=span.status.message if span.status.code == 2 else None,
                    node=resource["service.instance.id"],
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                )
                for span in of_scope.spans
            ]
    return spans


def only(spans: Iterable[Span], name: str) -> Span:
    """The one of this name."""
    (found,) = [span for span in spans if span.name == name]
    return found
