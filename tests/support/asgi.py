"""A node in this process: REST and sockets straight into its ASGI application, no port and no network."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, MutableMapping
from typing import Any, Self

import httpx
import orjson

from aip_cluster.protocol import Command, Result, ResultStatus, ServerMessage, decode_server
from node.app import Node
from tests.support.wait import PATIENCE_S

__all__ = ["Device", "Socket", "SocketClosed", "rest"]

Message = MutableMapping[str, Any]
HOST = (b"host", b"localhost")


@contextlib.asynccontextmanager
async def rest(node: Node, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """REST calls to `node`."""
    transport = httpx.ASGITransport(app=node.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", **options) as client:
        yield client


class SocketClosed(Exception):
    """The node closed the socket, with this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Socket:
    """A WebSocket to a node, seen from the client's end. Use as a context."""

    def __init__(self, node: Node, *, query: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> None:
        self._node = node
        self._to_node: asyncio.Queue[Message] = asyncio.Queue()
        self._from_node: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._scope: dict[str, Any] = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/ws",
            "raw_path": b"/ws",
            "root_path": "",
            "query_string": query,
            "headers": [*(headers or []), *([] if any(name == b"host" for name, _ in headers or []) else [HOST])],
            "client": ("192.0.2.1", 1234),
            "server": ("node", 80),
            "subprotocols": [],
            "state": {},
            "extensions": {"websocket.http.response": {}},
        }
        self.denied_with: int | None = None
        self.denied_headers: dict[str, str] = {}
        self._heard: list[str] = []
        self._broken = False

    async def __aenter__(self) -> Self:
        self._to_node.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._run())
        first = await self._next()
        if first["type"] != "websocket.accept":
            self.denied_with = first["status"]
            self.denied_headers = {name.decode(): value.decode() for name, value in first["headers"]}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Go away in order, and wait until the node has noticed. Safe to repeat."""
        await self._end(1000)

    async def cut(self) -> None:
        """Break off without a word, and wait until the node has noticed. Safe to repeat."""
        await self._end(1005)

    async def _end(self, code: int) -> None:
        if self._task is not None:
            self._to_node.put_nowait({"type": "websocket.disconnect", "code": code})
            task, self._task = self._task, None
            async with asyncio.timeout(PATIENCE_S):
                await task

    def send(self, **fields: Any) -> None:
        """Say something: one JSON object as a text frame."""
        self.send_raw(orjson.dumps(fields).decode())

    def send_raw(self, frame: str | bytes) -> None:
        """Say anything."""
        kind = "text" if isinstance(frame, str) else "bytes"
        self._to_node.put_nowait({"type": "websocket.receive", kind: frame})

    async def receive_raw(self) -> str:
        """The next frame. Raises SocketClosed."""
        message = await self._next()
        if message["type"] == "websocket.close":
            raise SocketClosed(message["code"], message["reason"])
        text: str = message["text"]
        self._heard.append(text)
        return text

    def count(self, kind: str, *, but: str = "\0") -> int:
        """How many messages of this type have come, received or not; without those that hold `but`."""
        waiting = [m["text"] for m in list(self._from_node._queue) if m["type"] == "websocket.send"]  # type: ignore[attr-defined]
        return sum(orjson.loads(text)["type"] == kind and but not in text for text in (*self._heard, *waiting))

    async def receive(self) -> ServerMessage:
        """The next message. Raises SocketClosed."""
        return decode_server(await self.receive_raw())

    async def ask(self, **fields: Any) -> ServerMessage:
        """Say something, and return the next message."""
        self.send(**fields)
        return await self.receive()

    async def _run(self) -> None:
        try:
            await self._node.app(self._scope, self._to_node.get, self._on_message)
        finally:
            self._from_node.put_nowait({"type": "ended"})

    async def _next(self) -> Message:
        async with asyncio.timeout(PATIENCE_S):
            message = await self._from_node.get()
        if message["type"] == "ended":
            raise EOFError("the node's side of the socket has ended")
        return message

    def break_sending(self) -> None:
        """From now on nothing can be sent to this end any more, as uvicorn says of a peer that has closed."""
        self._broken = True

    async def _on_message(self, message: Message) -> None:
        if self._broken:
            raise OSError("the peer is gone")
        self._from_node.put_nowait(message)
        if message["type"] == "websocket.close":
            self._to_node.put_nowait({"type": "websocket.disconnect", "code": message["code"]})


class Device(Socket):
    """A socket that registers as a device which wants its commands at once."""

    def __init__(
        self,
        node: Node,
        client_id: str = "device-1",
        *,
        features: tuple[str, ...] = ("commands_without_echo",),
        headers: list[tuple[bytes, bytes]] | None = None,
        token: str | None = None,
        **metadata: Any,
    ) -> None:
        super().__init__(node, headers=headers)
        self.client_id = client_id
        self.metadata: dict[str, Any] = {
            "platform": "linux",
            "system_info": {"platform": "linux", "supported_features": list(features)},
            **metadata,
        }
        if token is not None:
            self.metadata["resume_token"] = token
        # Whether questions for its tools are the test's.
        self.lists_tools = False
        # What this registration gave, if the device lists `resume`.
        self.token: str | None = None

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        answer = await self.ask(type="register", client_id=self.client_id, metadata=self.metadata)
        assert (answer.type, answer.status) == ("heartbeat", "ok"), answer.error
        self.token = (answer.result or {}).get("resume_token")
        return self

    async def receive(self) -> ServerMessage:
        """The next message but a question for its tools, to which it does not say which it has. Raises SocketClosed."""
        while True:
            message = await super().receive()
            asked = [command.tool_name for command in message.actions or ()]
            if self.lists_tools or asked != ["list_tools"]:
                return message
            self.answer(message, Result(status=ResultStatus.NONE))

    async def next_commands(self) -> tuple[ServerMessage, list[Command]]:
        """Skip to the next command message."""
        while True:
            message = await self.receive()
            if message.type == "command":
                return message, message.actions or []

    async def next_payload(self) -> dict[str, Any]:
        """Skip to the next command in the documents' form."""
        while True:
            message: dict[str, Any] = orjson.loads(await self.receive_raw())
            if "payload" in message:
                return message

    def answer(self, command: ServerMessage, *results: Result) -> None:
        """Answer a command message."""
        self.send(
            type="command_results",
            session_id=command.session_id,
            prev_response_id=command.response_id,
            action_results=[r.model_dump(mode="json") for r in results],
        )
