"""A TCP proxy between a client and a node that can be cut, or go on without forwarding a byte: a cable pulled out."""

import asyncio
import contextlib

from tests.support.local_server import LocalServer

__all__ = ["Cable"]

CHUNK = 65_536


class Cable(LocalServer):
    """Forwards to the port it is plugged into. Use as a context."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._upstream = port
        self._ends: set[asyncio.StreamWriter] = set()
        self._carries = asyncio.Event()
        self._carries.set()

    @property
    def ws_url(self) -> str:
        """Where a client connects to."""
        return f"ws://127.0.0.1:{self.port}/ws"

    def plug_into(self, port: int) -> None:
        """New connections go there."""
        self._upstream = port

    def cut(self) -> None:
        """Reset every connection: both ends notice at once."""
        for end in self._ends:
            end.transport.abort()

    def hole(self) -> None:
        """Carry nothing any more, and say nothing of it: neither end notices."""
        self._carries.clear()

    def mend(self) -> None:
        """Carry again, what waited first."""
        self._carries.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._ends.add(writer)
        pumps: list[asyncio.Task[None]] = []
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            ends.append(far_writer)
            self._ends.add(far_writer)
            pumps = [
                asyncio.create_task(self._pump(reader, far_writer)),
                asyncio.create_task(self._pump(far_reader, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass
        finally:
            self._ends.difference_update(ends)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in ends:
                end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                await self._carries.wait()
                sink.write(data)
                await sink.drain()
