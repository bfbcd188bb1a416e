"""Spans of a node's work, sent to an OpenTelemetry collector over OTLP/HTTP. Off unless an endpoint is configured.

The one module that knows OpenTelemetry, which is the optional extra `otel`. Each node has a provider of its own;
nothing global is set. What is sampled, and how spans are batched, is OpenTelemetry's to configure
(`OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, ...). Spans wait in a bounded
queue, and are dropped where the collector is away: nobody's task waits for it.
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
import threading
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from node.settings import Settings
from node.telemetry.metrics import package_version
from node.telemetry.trace import CURRENT, TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["Kind", "Tracing", "Work", "tracing_for"]

log = logging.getLogger(__name__)

Kind = Literal["SERVER", "PRODUCER", "CONSUMER", "INTERNAL"]
Value = str | int | float | bool

PATH = "/v1/traces"
EXTRA = "tracing needs the extra 'otel': pip install 'aip-cluster-server[otel]'"
CLOSE_S = 2.0
_EXPORTERS = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")


class Work:
    """A span, and its place in the trace. As a context it is where what is said and sent inside belongs."""

    __slots__ = ("_span", "_token", "context")

    def __init__(self, span: Any) -> None:
        self._span = span
        self._token: Token[TraceContext | None] | None = None
        place = span.get_span_context()
        self.context = TraceContext(f"{place.trace_id:032x}", f"{place.span_id:016x}", place.trace_flags.sampled)

    def note(self, **attributes: Value) -> None:
        """Say more of it. `__` in a name stands for a dot."""
        self._span.set_attributes(_dotted(attributes))

    def rename(self, name: str) -> None:
        """By now it is known what it is."""
        self._span.update_name(name)

    def fail(self, error: str) -> None:
        """It failed, and why. It goes on until its end."""
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - only where it is installed

        self._span.set_status(Status(StatusCode.ERROR, error))

    def end(self) -> None:
        """It is over. Safe to repeat: only the first end counts."""
        if self._span.is_recording():
            self._span.end()

    def __enter__(self) -> Self:
        self._token = CURRENT.set(self.context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            CURRENT.reset(self._token)
        if kind is not None:
            self.fail(kind.__name__)
        self.end()


class Tracing:
    """Begins spans, and sends them with `provider`."""

    def __init__(self, provider: "TracerProvider") -> None:
        # Imported where tracing is on, and nowhere else.
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.context import Context  # noqa: PLC0415

        self._api = trace
        self._nowhere = Context()
        self._provider = provider
        self._tracer = provider.get_tracer("aip-cluster", package_version())

    def start(self, name: str, kind: Kind, parent: TraceContext | None, **attributes: Value) -> Work:
        """A span that begins now, under `parent` or as a trace of its own. `__` in an attribute stands for a dot."""
        api, place = self._api, self._nowhere
        if parent is not None:
            remote = api.SpanContext(
                int(parent.trace_id, 16),
                int(parent.span_id, 16),
                is_remote=True,
                trace_flags=api.TraceFlags(int(parent.sampled)),
            )
            place = api.set_span_in_context(api.NonRecordingSpan(remote), place)
        return Work(self._tracer.start_span(name, place, api.SpanKind[kind], _dotted(attributes)))

    async def close(self) -> None:
        """Send what waits, for two seconds at most: a collector that is away must not keep the node from ending."""
        loop = asyncio.get_running_loop()
        sent = asyncio.Event()

        def shut_down() -> None:
            try:
                self._provider.shutdown()
            finally:
                # The loop is gone if this took longer than it was waited for.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(sent.set)

        # Not of an executor: its threads are waited for when the process ends.
        threading.Thread(target=shut_down, name="tracing-close", daemon=True).start()
        try:
            async with asyncio.timeout(CLOSE_S):
                await sent.wait()
        except TimeoutError:
            log.warning("some spans were not sent")


def tracing_for(settings: Settings, node_id: str) -> Tracing | None:
    """What the settings, or OpenTelemetry's own variables, ask for. Raises ValueError if a setting cannot be met."""
    endpoint = settings.trace_endpoint
    if endpoint is None and not _asked_for_by_environment():
        return None
    if any(not _installed(name) for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")):
        if endpoint is not None:
            raise ValueError(f"trace_endpoint: {EXTRA}")
        # The variables may be meant for others on the same machine.
        log.warning("OTEL_* variables are set but tracing is off", extra={"reason": EXTRA})
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    attributes = {"service.instance.id": node_id, "service.version": package_version()}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = "aip-node"
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    for name in _EXPORTERS:
        logging.getLogger(name).addFilter(_as_warning)
    url = None if endpoint is None else endpoint.rstrip("/").removesuffix(PATH) + PATH
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    return Tracing(provider)


def _as_warning(record: logging.LogRecord) -> bool:
    """A collector that is away is nothing that the node got wrong."""
    if record.levelno > logging.WARNING:
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def _asked_for_by_environment() -> bool:
    env = os.environ
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or env.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return bool(env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or env.get("OTEL_EXPORTER_OTLP_ENDPOINT"))


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _dotted(attributes: dict[str, Value]) -> dict[str, Value]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
