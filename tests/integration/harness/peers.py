"""A raw socket to a node: what is sent is exactly what is given, what arrives is kept."""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson
import pytest
from pydantic import BaseModel
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.integration.harness.patience import PATIENCE_S, SLACK

__all__ = ["Closed", "Frame", "Peer"]

Frame = dict[str, Any]


class Closed(NamedTuple):
    """How the node closed the socket; code 1006 when it did not say."""

    code: int
    reason: str


class Peer:
    """One socket. Frames wait in order of arrival until `expect` takes them; `heard` keeps all."""

    def __init__(self, url: str, client_id: str = "", *, headers: dict[str, str] | None = None) -> None:
        self.url = url
        self.client_id = client_id
        self.heard: list[Frame] = []
        self._headers = headers
        self._unread: list[Frame] = []
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._closed: Closed | None = None

    # -- life ------------------------------------------------------------------------------------------------------
    async def connect(self) -> None:
        """Open the socket, and say nothing."""
        self._socket = await connect(
            self.url,
            proxy=None,
            compression=None,
            max_size=None,
            ping_interval=None,
            close_timeout=2.0,
            open_timeout=PATIENCE_S * SLACK,
            additional_headers=self._headers,
        )
        self._closed = None
        self._reader = asyncio.create_task(self._read(self._socket))

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close in order. Safe to repeat."""
        if self._socket is not None:
            await self._socket.close()
        await self._stop_reading()

    async def abort(self) -> None:
        """Cut the connection without a word, as a killed process does. Safe to repeat."""
        if self._socket is not None:
            self._socket.transport.abort()
        await self._stop_reading()

    async def _stop_reading(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.cancel()
            await asyncio.wait([reader])
            if not reader.cancelled() and (error := reader.exception()) is not None:
                raise error

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for raw in socket:
                frame: Frame = orjson.loads(raw)
                with contextlib.suppress(ConnectionClosed):
                    if await self.answer_aside(frame):
                        continue
                self.heard.append(frame)
                self._unread.append(frame)
                self._news.set()
                with contextlib.suppress(ConnectionClosed):
                    await self.react(frame)
        except ConnectionClosed:
            pass
        finally:
            self._closed = Closed(socket.close_code or 1006, socket.close_reason or "")
            self._news.set()

    async def answer_aside(self, frame: Frame) -> bool:
        """Answer what no test is about; False, and nothing done, for everything else."""
        return False

    async def react(self, frame: Frame) -> None:
        """What the peer does with a frame by itself: nothing."""

    # -- speaking and listening --------------------------------------------------------------------------------------
    async def send(self, frame: BaseModel | Frame | str | bytes) -> None:
        """Send a message, a JSON object, or any text or bytes."""
        assert self._socket is not None
        if isinstance(frame, BaseModel):
            frame = frame.model_dump_json()
        elif isinstance(frame, dict):
            frame = orjson.dumps(frame).decode()
        await self._socket.send(frame)

    async def expect(self, kind: str, *, within_s: float = PATIENCE_S, **fields: object) -> Frame:
        """The first waiting frame of type `kind` with these fields; fails the test if none comes."""
        deadline = time.monotonic() + within_s * SLACK
        while True:
            for i, frame in enumerate(self._unread):
                if frame["type"] == kind and all(frame.get(k) == v for k, v in fields.items()):
                    return self._unread.pop(i)
            left_s = deadline - time.monotonic()
            if left_s <= 0 or self._closed is not None:
                seen = [{k: str(v)[:80] for k, v in frame.items()} for frame in self.heard[-8:]]
                pytest.fail(f"{self.client_id}: no {kind} {fields}; closed: {self._closed}; heard last: {seen}")
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left_s)

    async def first_answer(self, *, within_s: float = PATIENCE_S) -> Frame:
        """The first frame that ever arrived; fails the test if none does. It is taken from those that wait."""
        deadline = time.monotonic() + within_s * SLACK
        while not self.heard:
            if self._closed is not None or time.monotonic() > deadline:
                pytest.fail(f"{self.client_id}: no answer; closed: {self._closed}")
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), 1.0)
        if self._unread and self._unread[0] is self.heard[0]:
            self._unread.pop(0)
        return self.heard[0]

    async def until_closed(self, *, within_s: float = PATIENCE_S) -> Closed:
        """How the node closed the socket; fails the test if it does not."""
        assert self._reader is not None
        await asyncio.wait([self._reader], timeout=within_s * SLACK)
        if self._closed is None:
            pytest.fail(f"{self.client_id}: the node did not close the socket")
        return self._closed

    @property
    def is_open(self) -> bool:
        """Whether the socket is open as far as this side knows."""
        return self._reader is not None and self._closed is None

    async def still_served(self) -> None:
        """The node answers a heartbeat: socket and registration live. Sent as UFO's client does."""
        self._unread = [f for f in self._unread if f["type"] != "heartbeat" or f.get("session_id")]
        await self.send({"type": "heartbeat", "status": "ok", "client_type": "device", "client_id": self.client_id})
        await self.expect("heartbeat", status="ok", session_id=None)

    def count(self, kind: str) -> int:
        """How many frames of a type have arrived so far."""
        return sum(frame["type"] == kind for frame in self.heard)
