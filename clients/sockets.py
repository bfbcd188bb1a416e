"""How every client opens its WebSocket: one reading of addresses, one set of limits, one place for the key.

The key travels in a header, never in the address, and is not handed to another server by a redirect. Opening fails
with `OSError`, `TimeoutError` or `websockets.exceptions.WebSocketException`; nobody here retries.
"""

import logging
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect

__all__ = ["CLOSE_TIMEOUT_S", "MAX_FRAME_BYTES", "http_base", "open_socket", "websocket_url"]

MAX_FRAME_BYTES = 100 * 1024 * 1024
OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 20.0

_WEBSOCKET_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}

# At DEBUG, websockets logs the headers of the handshake, and the key is one of them.
_logger = logging.getLogger("clients.websockets")
_logger.setLevel(logging.INFO)


class _Connect(connect):
    """`connect` without redirects: websockets would send our key header along to wherever it is told to go."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def websocket_url(address: str) -> str:
    """The address of a node's WebSocket: `http` becomes `ws`, an empty path becomes `/ws`.

    Raises ValueError for anything that is not such an address, and for one that carries credentials or a query.
    """
    parts = urlsplit(address.strip())
    scheme = _WEBSOCKET_SCHEMES.get(parts.scheme)
    # Reading the port is what validates it; urlsplit raises ValueError with a sentence of its own.
    _ = parts.port
    if scheme is None or not parts.hostname:
        raise ValueError("must look like ws://host:port/ws (or wss, http, https)")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must not carry credentials, a query or a fragment; the key goes in a header")
    path = parts.path if parts.path not in {"", "/"} else "/ws"
    return f"{scheme}://{parts.netloc}{path}"


def http_base(address: str) -> str:
    """The address under which the same node serves REST: no trailing slash, no `/ws`. Raises as `websocket_url`."""
    url = websocket_url(address)
    return "http" + url.removeprefix("ws").removesuffix("/ws").rstrip("/")


async def open_socket(url: str, api_key: str | None) -> ClientConnection:
    """Open `url`, presenting `api_key` as `X-API-Key` if there is one.

    Raises OSError, TimeoutError or WebSocketException. Cancelling is safe: nothing stays open.
    """
    return await _Connect(
        url,
        additional_headers={"X-API-Key": api_key} if api_key else None,
        compression=None,
        max_size=MAX_FRAME_BYTES,
        open_timeout=OPEN_TIMEOUT_S,
        ping_interval=PING_INTERVAL_S,
        ping_timeout=PING_TIMEOUT_S,
        close_timeout=CLOSE_TIMEOUT_S,
        logger=_logger,
    )
