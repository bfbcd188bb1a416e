"""The way in: sockets go straight to their endpoint, requests to REST.

A socket stays for days, and every layer of a web framework that it came through would stay with it: a dozen suspended
calls, and what each of them remembers. Sockets that ask for anything else than `/ws` are refused here.
"""

from collections.abc import Awaitable
from typing import Any

from starlette.types import ASGIApp

from node.connections.connection import Receive, Send
from node.connections.keepalive import Keepalive
from node.gateway.endpoint import PULSE, deny
from node.serving.websocket_protocol import SOCKET

__all__ = ["AsgiApp"]

PATH = "/ws"


class AsgiApp:
    """The outermost ASGI application of a node. uvicorn must be told that it speaks ASGI 3: it is no coroutine."""

    __slots__ = ("_rest", "_sockets")

    def __init__(self, sockets: ASGIApp, rest: ASGIApp) -> None:
        self._sockets = sockets
        self._rest = rest

    def __call__(self, scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        """Hand a socket, a request or the lifespan on."""
        if scope["type"] != "websocket":
            return self._rest(scope, receive, send)
        if scope["path"] != PATH:
            return deny(send, 404, f"Sockets are served at {PATH}")
        scope[PULSE] = Keepalive(scope.get("extensions", {}).get(SOCKET))
        return self._sockets(scope, receive, send)
