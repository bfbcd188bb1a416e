"""How every client opens its WebSocket: one reading of addresses, one set of limits, one place for the key.

The key travels in a header, never in the address, and is not handed to another server by a redirect. Opening fails
with `OSError`, `TimeoutError` or `websockets.exceptions.WebSocketException`; nobody here retries.
"""

import logging
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from aip_cluster.protocol import ServerMessage

__all__ = [
    "CLOSE_TIMEOUT_S",
    "LEFT_TO_ANOTHER_S",
    "MAX_FRAME_BYTES",
    "MOVE_SPREAD_S",
    "MOVE_TO_ANOTHER_NODE",
    "REGISTRATION_S",
    "TAKEN_OVER",
    "TRY_LATER",
    "http_base",
    "open_socket",
    "resume_token_of",
    "retry_after_s",
    "websocket_url",
]

MAX_FRAME_BYTES = 100 * 1024 * 1024
OPEN_TIMEOUT_S = 10.0
# How long a node may take to answer a registration.
REGISTRATION_S = 15.0
CLOSE_TIMEOUT_S = 2.0
PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 20.0

# Close codes of a node. After these a client that was registered comes back at once, spread a little so that the
# clients of a node that restarts do not arrive together: 1012 the node restarts, 1013 it cannot serve now, 4100 too
# slow in reading, 4101 the registration was lost.
MOVE_TO_ANOTHER_NODE = frozenset({1012, 1013, 4100, 4101})
MOVE_SPREAD_S = 1.0
TRY_LATER = 1013
# Another socket has registered under the same id. Coming back soon would take the id from it again, for ever.
TAKEN_OVER = 4102
LEFT_TO_ANOTHER_S = 30.0

# A server that asks for more is not believed: whoever waits for a device has given up by then.
MAX_RETRY_AFTER_S = 120.0

_WEBSOCKET_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}

# At DEBUG, websockets logs the headers of the handshake, and the key is one of them.
_logger = logging.getLogger("aip_cluster.websockets")
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


def retry_after_s(exc: BaseException) -> float | None:
    """How long a server that refused the upgrade with 429 or 503 asks to be left alone, None if it does not ask."""
    if not isinstance(exc, InvalidStatus) or exc.response.status_code not in {429, 503}:
        return None
    # The other form of the header, a date, would need clocks that agree.
    given = exc.response.headers.get("Retry-After", "").strip()
    return min(float(given), MAX_RETRY_AFTER_S) if given.isascii() and given.isdigit() else None


def resume_token_of(acknowledgement: ServerMessage) -> str | None:
    """The token that an acknowledged registration may be resumed with. It is a secret: never to be logged."""
    result = acknowledgement.result
    token = result.get("resume_token") if isinstance(result, dict) else None
    return token if isinstance(token, str) and token else None


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
