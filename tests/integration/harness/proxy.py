"""A TCP proxy before Redis that loses an answer on demand: what was asked is done, and nobody hears of it."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

__all__ = ["LossyProxy"]

CHUNK = 65_536


class LossyProxy:
    """Forwards to `port`. After `lose(mark, nth)` the answer to the nth request that holds `mark` is lost, once."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._mark = b""
        self._left = 0
        self.lost = 0

    @property
    def url(self) -> str:
        """Where nodes connect to."""
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def lose(self, mark: str, *, nth: int) -> None:
        """Arm it."""
        self._mark, self._left = mark.encode(), nth

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        deaf = asyncio.Event()
        pumps = [
            asyncio.create_task(self._pump(reader, redis_writer, deaf, asked=True)),
            asyncio.create_task(self._pump(redis_reader, writer, deaf, asked=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in (writer, redis_writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, deaf: asyncio.Event, *, asked: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                if asked and self._left and self._mark in data:
                    self._left -= 1
                    if self._left == 0:
                        deaf.set()
                elif not asked and deaf.is_set():
                    self.lost += 1
                    return
                sink.write(data)
                await sink.drain()
