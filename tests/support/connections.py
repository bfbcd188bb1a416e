"""One connection to a node's server, without a socket: what is written over it is kept, write by write."""

import asyncio
from typing import Any

from starlette.types import ASGIApp
from uvicorn.server import ServerState

from node.serving.connection_bounds import Config, ConnectionBounds
from node.serving.http_protocol import HttpProtocol
from node.serving.message_memory import Allowance
from node.serving.websocket_protocol import WebSocketProtocol
from node.telemetry.metrics import Metrics
from tests.support.wait import until

__all__ = ["UPGRADE", "Transport", "connect", "open_socket"]

UPGRADE = (
    b"GET /ws?x=1 HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Transport(asyncio.Transport):
    """The server's end of the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.reading = True
        self.closed = False
        # Once a socket is open over it: WebSocketProtocol.
        self.protocol: Any = None

    @property
    def written(self) -> bytes:
        """All that was written."""
        return b"".join(self.writes)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 5), "sockname": ("192.0.2.2", 80)}.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def connect(
    application: ASGIApp,
    *,
    head_timeout_s: float = 10.0,
    message_bytes_per_s: float = 0.0,
    message_bytes_burst: int = 1,
    max_frame_bytes: int = 100 * 1024 * 1024,
    arriving: Allowance | None = None,
    **options: Any,
) -> tuple[HttpProtocol, Transport]:
    """A connection that was just made. `options` are uvicorn's."""
    bounds = ConnectionBounds(
        Metrics(),
        max_tcp_connections=10,
        head_timeout_s=head_timeout_s,
        message_rate_per_s=500.0,
        message_burst=2000,
        message_patience_s=30.0,
        message_bytes_per_s=message_bytes_per_s,
        message_bytes_burst=message_bytes_burst,
        max_frame_bytes=max_frame_bytes,
        arriving=arriving or Allowance(max_frame_bytes),
    )
    config = Config(
        application,
        bounds,
        http=HttpProtocol,
        ws=WebSocketProtocol,
        log_config=None,
        lifespan="off",
        interface="asgi3",
        **options,
    )
    config.load()
    protocol, transport = HttpProtocol(config, ServerState(), {}, asyncio.get_running_loop()), Transport()
    protocol.connection_made(transport)
    return protocol, transport


async def open_socket(application: ASGIApp, **options: Any) -> Transport:
    """A connection over which a socket was opened; nothing was written since."""
    http, transport = connect(application, ws_per_message_deflate=False, **options)
    http.data_received(UPGRADE)
    await until(lambda: transport.written.startswith(b"HTTP/1.1 101"), "open")
    await asyncio.sleep(0)
    transport.writes.clear()
    return transport
