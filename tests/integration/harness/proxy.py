"""TCP proxies before Redis that lose what they are told to lose.

`LossyProxy` loses an answer: what was asked is done, and nobody hears of it. `BlackHole` lets connections stand and
swallows what is said on them, as a line does whose other end is gone.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from tests.support.local_server import LocalServer

__all__ = ["BlackHole", "LossyProxy"]

CHUNK = 65_536


class LossyProxy(LocalServer):
    """Forwards to `port`. After `lose(mark, nth)` the answer to the nth request that holds `mark` is lost, once."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._upstream = port
        self._mark = b""
        self._left = 0
        self.lost = 0

    @property
    def url(self) -> str:
        """Where nodes connect to."""
        return f"redis://127.0.0.1:{self.port}/0"

    def lose(self, mark: str, *, nth: int) -> None:
        """Arm it."""
        self._mark, self._left = mark.encode(), nth

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
            await _close(pumps, writer, redis_writer)

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


class BlackHole(LocalServer):
    """Forwards to `port`, until `open_hole`. What fell into the hole is never heard of again; nor is its connection."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._upstream = port
        self._hole = False
        self._only_subscriptions = False
        self.swallowed = 0

    @property
    def url(self) -> str:
        """Where nodes connect to."""
        return f"redis://127.0.0.1:{self.port}/0"

    def open_hole(self, *, only_subscriptions: bool = False) -> None:
        """From now on nothing comes through, on any connection or only on those that have subscribed."""
        self._hole, self._only_subscriptions = True, only_subscriptions

    def close_hole(self) -> None:
        """New connections work again; those that lost something never do."""
        self._hole = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        line = _Line()
        asks = asyncio.create_task(self._pump(reader, redis_writer, line, asked=True))
        answers = asyncio.create_task(self._pump(redis_reader, writer, line, asked=False))
        try:
            await asyncio.wait([asks, answers], return_when=asyncio.FIRST_COMPLETED)
            if line.dead:
                # Whatever end closed: the other hears nothing of it, unless it closes, too.
                await asks
        finally:
            await _close([asks, answers], writer, redis_writer)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, line: "_Line", *, asked: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                if asked and b"SUBSCRIBE" in data:
                    line.subscribed = True
                if self._hole and (line.subscribed or not self._only_subscriptions):
                    line.dead = True
                if line.dead:
                    self.swallowed += len(data)
                    continue
                sink.write(data)
                await sink.drain()


class _Line:
    """One connection through a `BlackHole`."""

    def __init__(self) -> None:
        self.subscribed = False
        self.dead = False


async def _close(pumps: Sequence[asyncio.Task[None]], *ends: asyncio.StreamWriter) -> None:
    for pump in pumps:
        pump.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)
    for end in ends:
        end.close()
        with contextlib.suppress(OSError):
            await end.wait_closed()
