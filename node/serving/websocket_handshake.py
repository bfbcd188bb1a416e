"""The opening handshake of a WebSocket, by websockets' sans-I/O `ServerProtocol`: bytes in, the answer's bytes out.

What is no handshake is refused in JSON, as all that a node refuses. See
https://websockets.readthedocs.io/en/stable/howto/sansio.html.
"""

import asyncio
import email.utils
import http
import logging
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import unquote

import orjson
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

__all__ = ["Handshake", "address"]

# websockets notes each handshake at INFO; uvicorn's logger, which it has logged to so far, begins at WARNING.
_LOG = logging.getLogger("uvicorn.error")

# What ASGI gives: names and values as they were sent.
RawHeaders = Iterable[tuple[bytes, bytes]]
# An application's answer in place of a socket: status, headers, body.
_Denial = tuple[int, RawHeaders, bytearray]


class _Protocol(ServerProtocol):
    """websockets' handshake, with answers of ours where it takes none."""

    def reject(self, status: StatusLike, text: str) -> Response:
        """The answer to a handshake that is refused."""
        response = super().reject(status, orjson.dumps({"detail": text.strip()}).decode())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "application/json"
        return response


class Handshake:
    """One opening handshake. It is answered once: with `accept`, `deny` or `refuse`, or in `receive`."""

    __slots__ = ("_denial", "_protocol", "_request", "_response")

    def __init__(self) -> None:
        self._protocol = _Protocol(logger=_LOG)
        self._request: Request | None = None
        self._response: Response | None = None
        # The application's own answer, while it is being given.
        self._denial: _Denial | None = None

    def receive(self, data: bytes) -> bytes | None:
        """Take the head of the request, whole. Returns the answer if that is no handshake, None if it is one."""
        protocol = self._protocol
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Request):
                self._request, self._response = event, protocol.accept(event)
                if self._response.status_code == 101:
                    return None
                protocol.send_response(self._response)
        # What cannot be read as a request at all websockets does not answer: that is no answer either.
        return self._to_send()

    def scope(self, transport: asyncio.Transport) -> dict[str, Any]:
        """What ASGI tells an application of a socket, as far as its handshake and its connection say it."""
        request = cast(Request, self._request)
        path, _, query = request.path.partition("?")
        offered = request.headers.get_all("Sec-WebSocket-Protocol")
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws" if transport.get_extra_info("sslcontext") is None else "wss",
            "server": address(transport.get_extra_info("sockname")),
            "path": unquote(path),
            "raw_path": path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "headers": [(name.lower().encode("ascii"), _as_sent(value)) for name, value in request.headers.raw_items()],
            "subprotocols": [name.strip() for line in offered for name in line.split(",")],
        }

    def accept(self, headers: RawHeaders, subprotocol: str | None) -> bytes:
        """The answer that opens the socket, with these headers besides websockets' own."""
        response = cast(Response, self._response)
        # The server's own headers have it.
        del response.headers["Date"]
        response.headers.update(_text(headers))
        if subprotocol:
            response.headers["Sec-WebSocket-Protocol"] = subprotocol
        return self._answer(response)

    def begin_denial(self, status: int, headers: RawHeaders) -> None:
        """The application begins an answer of its own, in place of a socket."""
        if self._denial is not None:
            raise RuntimeError("an answer was begun already")
        self._denial = status, list(headers), bytearray()

    def add_to_denial(self, body: bytes) -> None:
        """More of that answer's body."""
        if self._denial is None:
            raise RuntimeError("a body comes after 'websocket.http.response.start'")
        self._denial[2].extend(body)

    def deny(self) -> bytes:
        """That answer, which is whole."""
        status, headers, body = cast(_Denial, self._denial)
        given = Headers(_text(headers))
        given.setdefault("Date", email.utils.formatdate(usegmt=True))
        given.setdefault("Connection", "close")
        given.setdefault("Content-Length", str(len(body)))
        given.setdefault("Content-Type", "text/plain; charset=utf-8")
        return self._answer(Response(status, _phrase(status), given, bytes(body)))

    def refuse(self, status: int) -> bytes:
        """An answer that says no more than its status."""
        return self._answer(self._protocol.reject(status, _phrase(status)))

    def end(self) -> None:
        """Nothing is asked of it any more."""
        # Not documented by websockets: `parser`, a generator that holds the object which holds it. Thousands of such
        # pairs would wait for the collector.
        self._protocol.parser.close()

    def _answer(self, response: Response) -> bytes:
        self._protocol.send_response(response)
        return self._to_send()

    def _to_send(self) -> bytes:
        return b"".join(self._protocol.data_to_send())


def address(name: Any) -> tuple[str, int] | None:
    """Host and port of a socket's name; None of one that has none (a UNIX socket)."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple | list) and len(name) >= 2 else None


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


def _text(headers: RawHeaders) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _as_sent(value: str) -> bytes:
    """The bytes of a header's value. websockets documents ISO-8859-1 since 17.0."""
    return value.encode("latin-1")
