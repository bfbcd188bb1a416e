"""The network between one client and nginx: a TCP proxy that can be cut, or made to forget one of its ends.

Bytes pass unchanged and in order. A closed end closes the other; nothing is kept over a break.
"""

import asyncio
import contextlib

__all__ = ["Line"]

CHUNK = 65_536


class Line:
    """Listens on a port of its own and connects each client to `port`. Belongs to one event loop."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._server: asyncio.Server | None = None
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._waiting: set[asyncio.Task[None]] = set()
        # What the cluster still believes to be connected; nobody will ever speak there again.
        self._forgotten: list[asyncio.StreamWriter] = []

    @property
    def port(self) -> int:
        """Where the client connects to."""
        if self._server is None:
            raise RuntimeError("the line is not open")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def open(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        """Cut everything, and listen no more. May be called again."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for writer in self._forgotten:
            writer.transport.abort()
        self._forgotten.clear()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    def cut(self) -> None:
        """Both ends of every connection are gone at once, without a word."""
        for near, far in self._pairs:
            near.transport.abort()
            far.transport.abort()

    def silence(self) -> None:
        """The client loses its connections; the cluster goes on believing in them, and hears nothing more."""
        for near, far in self._pairs:
            near.transport.abort()
            self._forgotten.append(far)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        pumps = [asyncio.create_task(_pump(reader, far_writer)), asyncio.create_task(_pump(far_reader, writer))]
        pair = (writer, far_writer)
        self._pairs.append(pair)
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pairs.remove(pair)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()
            if far_writer not in self._forgotten:
                far_writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
