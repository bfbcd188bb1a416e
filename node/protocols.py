"""What stands between TCP and uvicorn's protocols: bounds on those who have said little, and an answer in one write.

uvicorn reads whatever arrives as fast as it arrives, for as long as it takes. Here a connection has a while to finish
the head of a request and a bound on its size; there is a bound on open connections, and who still owes a request makes
room for newcomers, so that probes get through while strangers hold on. What becomes a WebSocket goes on in
`node.websocket`. Nothing here waits for Redis.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from node.pace import Pace
from node.telemetry.metrics import Limit, Metrics
from node.websocket import WebSocketProtocol

__all__ = ["Bounds", "Config", "HttpProtocol"]

HEAD_BYTES = 64 * 1024


@dataclass(slots=True)
class Bounds:
    """The bounds of one node's connections, and what is counted against them."""

    metrics: Metrics
    max_tcp_connections: int
    head_timeout_s: float
    message_rate_per_s: float
    message_burst: int
    message_patience_s: float
    # Those who owe a request, longest first.
    owing: dict["HttpProtocol", None] = field(default_factory=dict)

    def pace(self) -> Pace:
        """The pace of one WebSocket."""
        return Pace(self.message_rate_per_s, self.message_burst, patience_s=self.message_patience_s)


class Config(uvicorn.Config):
    """uvicorn's configuration, and our bounds."""

    def __init__(self, app: Any, bounds: Bounds, **options: Any) -> None:
        super().__init__(app, http=HttpProtocol, ws=WebSocketProtocol, **options)
        self.bounds = bounds


class _Cork:
    """What an answer is written to: its head waits for what follows in the same turn of the loop, to travel with it."""

    __slots__ = ("_began", "_flush_soon", "_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._began = False
        self._flush_soon: asyncio.Handle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """The head first, then whatever follows."""
        if self._flush_soon is not None:
            self._flush_soon.cancel()
            self._flush_soon = None
            self._transport.write(self._head + data)
        elif self._began:
            self._transport.write(data)
        else:
            self._began, self._head = True, data
            self._flush_soon = self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Close, behind what was written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._flush_soon is not None:
            self._flush_soon.cancel()
            self._flush_soon = None
            self._transport.write(self._head)


class HttpProtocol(HttpToolsProtocol):
    """HTTP with a deadline and a bound for the head of each request."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = cast(Config, config).bounds
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A newcomer: over the bound, whoever has owed a request longest makes room, or it goes itself."""
        super().connection_made(transport)
        self._owe()
        if len(self.connections) > self._bounds.max_tcp_connections:
            next(iter(self._bounds.owing)).refuse(Limit.TCP_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._settle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What arrives; of a head, not more than the bound."""
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            if not self._is_working():
                self.send_400_response("The head of the request is too large.")
            self.refuse(Limit.HEAD_BYTES)

    def on_message_begin(self) -> None:
        """A request begins; on a connection that is used again the deadline begins with it."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        # While the one before is answered, the next is owed to nobody.
        if self._head_timer is None and not self._is_working():
            self._owe()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._settle()
        self._in_head = False
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.transport is self.transport:
            self.cycle.transport = cast(asyncio.Transport, _Cork(self.transport, self.loop))

    def on_response_complete(self) -> None:
        """Answered: the next request is owed, and the rest of a body that was answered before its end."""
        super().on_response_complete()
        if self._head_timer is None and not self._is_working() and not self.transport.is_closing():
            self._owe()

    def handle_websocket_upgrade(self) -> None:
        """From here on a WebSocketProtocol has the connection."""
        super().handle_websocket_upgrade()
        # The parser and this object hold each other: thousands of such pairs would wait for the collector.
        self.parser = None  # type: ignore[assignment]

    def refuse(self, limit: Limit) -> None:
        """Cut the connection: whoever has not asked yet needs no answer."""
        self._bounds.metrics.refusals.labels(limit).inc()
        self._settle()
        if not self.transport.is_closing():
            self.transport.abort()

    def _is_working(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _owe(self) -> None:
        self._bounds.owing[self] = None
        self._head_timer = self.loop.call_later(self._bounds.head_timeout_s, self.refuse, Limit.HEAD_TIMEOUT)

    def _settle(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
            self._bounds.owing.pop(self, None)
