"""Peers that overload a node: sockets by the thousand, raw bytes, and somebody who asks the probes all the while."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Self
from urllib.parse import urlsplit

import httpx
import orjson
import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.integration.harness.cluster import Node
from tests.integration.harness.patience import PATIENCE_S, SLACK

__all__ = ["Herd", "Raw", "memory_bytes", "probed"]

UPGRADE = (
    "GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)
MASKED = 0x80
TEXT, CLOSE, PING, PONG, CONTINUATION = 0x1, 0x8, 0x9, 0xA, 0x0
FINAL = 0x80


class Raw:
    """A TCP connection to a node, and WebSocket frames on it as they are given."""

    def __init__(self, node: Node) -> None:
        self._at = urlsplit(node.ws_url)
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(self._at.hostname, self._at.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def say(self, data: str | bytes) -> None:
        """Send bytes, as fast as the node takes them. Raises OSError once it does not any more."""
        self.writer.write(data.encode() if isinstance(data, str) else data)
        await self.writer.drain()

    def upgrade(self, *headers: str) -> str:
        """The head of an upgrade."""
        return UPGRADE.format(host=self._at.netloc) + "".join(f"{h}\r\n" for h in headers) + "\r\n"

    async def open(self) -> None:
        """Become a WebSocket."""
        await self.say(self.upgrade())
        head = await self.head()
        assert b" 101 " in head, head

    async def head(self) -> bytes:
        """The head of the node's next answer. Fails the test if none comes."""
        async with asyncio.timeout(PATIENCE_S * SLACK):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def register(self, client_id: str) -> None:
        """Open, register, and read the acknowledgement."""
        await self.open()
        await self.say(frame(TEXT, orjson.dumps({"type": "register", "client_id": client_id})))
        opcode, payload = await self.next_frame()
        assert opcode == TEXT
        assert orjson.loads(payload)["type"] == "heartbeat"

    async def next_frame(self) -> tuple[int, bytes]:
        """The next frame of the node: opcode and payload. Raises IncompleteReadError at its end."""
        first, size = await self.reader.readexactly(2)
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2))
        elif size == 127:
            size = int.from_bytes(await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(size)

    async def close_code(self) -> int | None:
        """Read on to the node's close frame. None if there was none."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                opcode, payload = await self.next_frame()
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2])
        return None

    async def is_cut(self, *, within_s: float) -> bool:
        """Whether the node ends the connection in time, whatever it says before."""
        try:
            async with asyncio.timeout(within_s * SLACK):
                while await self.reader.read(65_536):
                    pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """A frame of a client, masked with zeros."""
    size = len(payload)
    head = bytes([(FINAL if final else 0) | opcode, MASKED | (size if size < 126 else 126)])
    return head + (size.to_bytes(2) if size >= 126 else b"") + b"\0\0\0\0" + payload


class Herd:
    """Devices that all come at once, and come back when they are told to."""

    def __init__(self, node: Node, count: int) -> None:
        self._node = node
        self.names = [f"herd-{i}" for i in range(count)]
        self.turned_away = 0
        self.sockets: list[ClientConnection] = []

    async def come(self) -> None:
        """Everybody at once; returns once all are registered."""
        await asyncio.gather(*(self._come(name) for name in self.names))

    async def leave(self) -> None:
        """Cut them all."""
        for socket in self.sockets:
            socket.transport.abort()
        await asyncio.gather(*(socket.wait_closed() for socket in self.sockets))

    async def _come(self, name: str) -> None:
        while True:
            try:
                socket = await connect(
                    self._node.ws_url, proxy=None, compression=None, ping_interval=None, open_timeout=60
                )
            except InvalidStatus as exc:
                if exc.response.status_code != 503:
                    raise
                self.turned_away += 1
                await asyncio.sleep(int(exc.response.headers["Retry-After"]))
                continue
            self.sockets.append(socket)
            await socket.send(orjson.dumps({"type": "register", "client_id": name}).decode())
            answer = orjson.loads(await socket.recv())
            assert answer["type"] == "heartbeat", answer
            return


@contextlib.asynccontextmanager
async def probed(node: Node) -> AsyncIterator[list[tuple[str, str]]]:
    """Asks liveness and readiness, over a new connection each time as an orchestrator does, as long as it lasts.

    Gives what was answered otherwise than with 200; at the end there must have been some answers.
    """
    failures: list[tuple[str, str]] = []
    asked = 0
    over = asyncio.Event()

    async def ask(path: str) -> None:
        nonlocal asked
        while not over.is_set():
            try:
                async with httpx.AsyncClient(timeout=20.0 * SLACK, trust_env=False) as client:
                    answer = await client.get(f"{node.process.url}{path}")
                if answer.status_code != 200:
                    failures.append((path, answer.text))
            except httpx.HTTPError as exc:
                failures.append((path, repr(exc)))
            asked += 1
            await asyncio.sleep(0.1)

    asking = [asyncio.create_task(ask(path)) for path in ("/livez", "/readyz")]
    try:
        yield failures
    finally:
        over.set()
        await asyncio.gather(*asking)
    assert asked >= 2


def memory_bytes(node: Node) -> int:
    """What the node's process holds in memory."""
    return int(psutil.Process(node.process.pid).memory_info().rss)
