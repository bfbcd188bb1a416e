"""A collector of traces on the loopback interface: takes OTLP over HTTP as a real one does, and keeps every span."""

import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tests.support.spans import Span, exported

__all__ = ["Collector"]


class Collector:
    """Use as a context; `url` is what `AIP_TRACE_ENDPOINT` takes. What it cannot read is kept in `complaints`."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._spans: list[Span] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def of(self, trace_id: str) -> list[Span]:
        """The spans of a trace so far."""
        with self._lock:
            return [span for span in self._spans if span.trace_id == trace_id]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _take(self, path: str, kind: str | None, body: bytes) -> None:
        with self._lock:
            try:
                assert (path, kind) == ("/v1/traces", "application/x-protobuf"), f"{path} {kind}"
                self._spans += exported(body)
            except Exception as exc:
                self.complaints.append(repr(exc))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = zlib.decompress(body, wbits=zlib.MAX_WBITS | 16)
                collector._take(self.path, self.headers["Content-Type"], body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Nothing: the test's output is the test's."""

        return Handler
