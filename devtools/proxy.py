"""The network between a client and a server: a TCP proxy that can be cut, held, or made to lose what it carries.

Tests put it before a node or before Redis, `scripts/chaos` before nginx. Bytes pass unchanged and in order; an end that
closes, closes the other. Nothing is kept over a break.
"""

import asyncio
import contextlib
from dataclasses import dataclass

from devtools.local_server import LocalServer

__all__ = ["Proxy"]

CHUNK = 65_536


@dataclass(eq=False)
class _Line:
    """One connection through the proxy: the client's end and the server's."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    subscribed: bool = False
    # What is sent on it, in either direction, is swallowed from now on.
    dead: bool = False
    # The server's next reply is lost, and the connection with it.
    loses_reply: bool = False


class Proxy(LocalServer):
    """Forwards each connection to `port`. Use as a context. Belongs to one event loop."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._upstream = port
        self._lines: set[_Line] = set()
        # Ends of the server that it still believes to be connected: nothing is ever sent there again.
        self._forgotten: list[asyncio.StreamWriter] = []
        self._carries = asyncio.Event()
        self._carries.set()
        self._swallows = self._only_subscriptions = False
        self._mark, self._requests_left = b"", 0
        # How many bytes were swallowed, and how many replies were lost.
        self.swallowed = 0
        self.lost = 0

    @property
    def ws_url(self) -> str:
        """Where a device connects to."""
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def redis_url(self) -> str:
        """Where a node connects to."""
        return f"redis://127.0.0.1:{self.port}/0"

    def plug_into(self, port: int) -> None:
        """Forward new connections to this port."""
        self._upstream = port

    async def close(self) -> None:
        """Cut everything, and listen no more. Safe to repeat."""
        self.cut()
        for end in self._forgotten:
            end.transport.abort()
        self._forgotten.clear()
        await super().close()

    # -- faults ------------------------------------------------------------------------------------------------------
    def cut(self) -> None:
        """Reset every connection: both ends notice at once."""
        for line in self._lines:
            line.near.transport.abort()
            line.far.transport.abort()

    def silence(self) -> None:
        """Reset every connection at the client's end; the server goes on believing in it, and hears nothing more."""
        for line in self._lines:
            line.near.transport.abort()
            self._forgotten.append(line.far)

    def hold(self) -> None:
        """Carry nothing until `mend`: a cable that is pulled out. Neither end notices, and nothing is lost."""
        self._carries.clear()

    def mend(self) -> None:
        """Carry again, what waited first."""
        self._carries.set()

    def swallow(self, *, only_subscriptions: bool = False) -> None:
        """Swallow what is sent from now on, on every connection or only on those that have subscribed (of Redis).

        Such a connection stays open as long as its client keeps it, and never works again.
        """
        self._swallows, self._only_subscriptions = True, only_subscriptions

    def stop_swallowing(self) -> None:
        """Serve new connections again, and those that have lost nothing."""
        self._swallows = False

    def lose(self, mark: str, *, nth: int) -> None:
        """Lose, once, the reply to the nth request from now on that holds `mark`: it is carried out all the same."""
        self._mark, self._requests_left = mark.encode(), nth

    # -- carrying ----------------------------------------------------------------------------------------------------
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        line = _Line(writer, far_writer)
        self._lines.add(line)
        requests = asyncio.create_task(self._carry_requests(reader, line))
        replies = asyncio.create_task(self._carry_replies(far_reader, line))
        try:
            await asyncio.wait([requests, replies], return_when=asyncio.FIRST_COMPLETED)
            if line.dead:
                # Whichever end closed: the other hears nothing of it, until the client closes, too.
                await requests
        finally:
            self._lines.discard(line)
            for pump in (requests, replies):
                pump.cancel()
            await asyncio.gather(requests, replies, return_exceptions=True)
            writer.close()
            if far_writer not in self._forgotten:
                far_writer.close()

    async def _carry_requests(self, source: asyncio.StreamReader, line: _Line) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                line.subscribed = line.subscribed or b"SUBSCRIBE" in data
                if self._requests_left and self._mark in data:
                    self._requests_left -= 1
                    line.loses_reply = not self._requests_left
                await self._carry(data, line.far, line)

    async def _carry_replies(self, source: asyncio.StreamReader, line: _Line) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                if line.loses_reply:
                    self.lost += 1
                    return
                await self._carry(data, line.near, line)

    async def _carry(self, data: bytes, sink: asyncio.StreamWriter, line: _Line) -> None:
        await self._carries.wait()
        line.dead = line.dead or (self._swallows and (line.subscribed or not self._only_subscriptions))
        if line.dead:
            self.swallowed += len(data)
            return
        sink.write(data)
        await sink.drain()
