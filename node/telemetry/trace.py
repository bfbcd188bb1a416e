"""Which trace a piece of work belongs to: W3C's trace context, whoever records it.

`CURRENT` is set where work of a trace begins, and read where something is said about it: a log line, an event, a
message to a client. Nothing here needs OpenTelemetry; without tracing nothing is ever set. `tracestate` is not carried.
https://www.w3.org/TR/trace-context/
"""

import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

__all__ = ["CURRENT", "TRACEPARENT", "TraceContext", "carried", "current_traceparent", "facts", "parse", "parse_in"]

TRACEPARENT = "traceparent"
# A later version may say more behind what this one knows.
_FORM = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
MAX_CHARS = 512


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace; ids in hexadecimal. What is not `sampled` is recorded nowhere."""

    trace_id: str
    span_id: str
    sampled: bool

    @property
    def traceparent(self) -> str:
        """As it travels."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    @property
    def exemplar(self) -> dict[str, str] | None:
        """What a histogram notes beside a value; nothing for a trace that nobody could look up."""
        return {"trace_id": self.trace_id} if self.sampled else None


CURRENT: ContextVar[TraceContext | None] = ContextVar("aip_trace", default=None)


def parse(traceparent: object) -> TraceContext | None:
    """The place that a peer names, or None: whatever it sent, it is never an error."""
    if not isinstance(traceparent, str) or len(traceparent) > MAX_CHARS:
        return None
    found = _FORM.fullmatch(traceparent.strip(" \t"))
    if found is None or (found[1] == "00" and found[5]):
        return None
    return TraceContext(found[2], found[3], sampled=bool(int(found[4], 16) & 1))


def parse_in(metadata: Mapping[str, Any] | None) -> TraceContext | None:
    """The place that a message's metadata names."""
    return parse(metadata.get(TRACEPARENT)) if metadata else None


def current_traceparent() -> str:
    """Where the work is that is under way, '' if it is traced by nobody."""
    context = CURRENT.get()
    return "" if context is None else context.traceparent


def carried() -> dict[str, Any] | None:
    """The metadata of a message that is sent now."""
    context = CURRENT.get()
    return None if context is None else {TRACEPARENT: context.traceparent}


def facts() -> dict[str, str]:
    """What a log line or an event says of the trace."""
    context = CURRENT.get()
    return {} if context is None else {"trace_id": context.trace_id}
