"""A real WebSocket server that says what a test tells it to say, and a REST server of the same kind."""

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from devtools.local_server import LocalServer

# Reached only by a test that fails.
PATIENCE_S = 20.0


class Peer:
    """One client's connection, seen from the server."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket

    def header(self, name: str) -> str | None:
        assert self._socket.request is not None
        return self._socket.request.headers.get(name)

    @property
    def path(self) -> str:
        assert self._socket.request is not None
        return self._socket.request.path

    async def receive_any(self) -> dict[str, Any] | bytes:
        """The next frame, whatever it is; a binary one as bytes."""
        async with asyncio.timeout(PATIENCE_S):
            raw = await self._socket.recv()
        return raw if isinstance(raw, bytes) else json.loads(raw)

    async def receive_end(self, transfer_id: str) -> dict[str, Any]:
        """The end of a file transfer; what still comes of it before that is passed over."""
        while True:
            frame = await self.receive_any()
            if isinstance(frame, dict) and frame["type"] == "file_transfer_complete":
                assert frame["transfer_id"] == transfer_id
                return frame

    async def send_binary(self, data: bytes) -> None:
        await self._socket.send(data)

    async def abort(self) -> None:
        """Cut the connection, as a network does: without a closing handshake."""
        self._socket.transport.abort()

    async def receive(self, *kinds: str) -> dict[str, Any]:
        """The next text frame of one of these types; any but a heartbeat if none is given."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                raw = await self._socket.recv()
                if isinstance(raw, bytes):
                    continue
                frame: dict[str, Any] = json.loads(raw)
                if frame["type"] in kinds or (not kinds and frame["type"] != "heartbeat"):
                    return frame

    async def send(self, kind: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, "status": "ok", **fields}))

    async def send_raw(self, text: str) -> None:
        await self._socket.send(text)

    async def accept(self, **fields: Any) -> dict[str, Any]:
        """Take the registration and acknowledge it."""
        frame = await self.receive("register")
        await self.send("heartbeat", **fields)
        return frame

    async def close(self, code: int = 1000) -> None:
        await self._socket.close(code)

    async def closed(self) -> int | None:
        """The code that the connection ended with."""
        async with asyncio.timeout(PATIENCE_S):
            await self._socket.wait_closed()
        return self._socket.close_code


class ScriptedServer:
    """Listens on a free port; `peer` is the next connection.

    The next upgrades are refused as `refusals` says, each with a status and headers; what is no upgrade is answered by
    `rest`, from its target.
    """

    def __init__(self) -> None:
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: Server | None = None
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.rest: Callable[[str], tuple[int, Any]] = lambda target: (404, {"detail": "Unknown session"})
        self.asked: list[str] = []

    async def __aenter__(self) -> Self:
        self._server = await serve(self._hold, "127.0.0.1", 0, compression=None, process_request=self._process)
        return self

    def _process(self, socket: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" not in request.headers:
            self.asked.append(request.path)
            status, body = self.rest(request.path)
            return socket.respond(HTTPStatus(status), json.dumps(body))
        if not self.refusals:
            return None
        status, headers = self.refusals.pop(0)
        response = socket.respond(HTTPStatus(status), "refused")
        response.headers.update(headers)
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/ws"

    async def peer(self) -> Peer:
        async with asyncio.timeout(PATIENCE_S):
            return await self._peers.get()

    async def registered(self) -> Peer:
        """The next connection, its registration acknowledged."""
        peer = await self.peer()
        await peer.accept()
        return peer

    async def _hold(self, socket: ServerConnection) -> None:
        await self._peers.put(Peer(socket))
        await socket.wait_closed()


class RestServer(LocalServer):
    """Answers every request with what `answer` makes of its method and target, and remembers the heads."""

    def __init__(self, answer: Callable[[str, str], tuple[int, Any]]) -> None:
        super().__init__()
        self._answer = answer
        self.heads: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        method, target, _ = head.split(" ", 2)
        status, value = self._answer(method, target)
        body = json.dumps(value).encode()
        writer.write(f"HTTP/1.1 {status} -\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
