"""A TCP proxy between a client and a node that can be cut, or go on without forwarding a byte: a cable pulled out."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

__all__ = ["Cable"]

CHUNK = 65_536


class Cable:
    """Forwards to the port it is plugged into. Use as a context."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._carries = asyncio.Event()
        self._carries.set()

    @property
    def ws_url(self) -> str:
        """Where a client connects to."""
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/ws"

    def plug_into(self, port: int) -> None:
        """New connections go there."""
        self._port = port

    def cut(self) -> None:
        """Reset every connection: both ends notice at once."""
        for writers in self._connections.values():
            for writer in writers:
                writer.transport.abort()

    def hole(self) -> None:
        """Carry nothing any more, and say nothing of it: neither end notices."""
        self._carries.clear()

    def mend(self) -> None:
        """Carry again, what waited first."""
        self._carries.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections[task] = [writer]
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        pumps: list[asyncio.Task[None]] = []
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            self._connections[task].append(far_writer)
            pumps = [
                asyncio.create_task(self._pump(reader, far_writer)),
                asyncio.create_task(self._pump(far_reader, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in self._connections[task]:
                end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                await self._carries.wait()
                sink.write(data)
                await sink.drain()
