"""Flow control of one connection: when nothing more is read from the peer, and when nothing more is written to it."""

import asyncio

__all__ = ["FlowControl"]


class FlowControl:
    """Both directions of one transport."""

    __slots__ = ("_reading", "_transport", "_writable")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._reading = True
        self._writable = asyncio.Event()
        self._writable.set()

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`. Safe to repeat."""
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on. Safe to repeat."""
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    @property
    def write_paused(self) -> bool:
        """Whether the peer has yet to read what was written before."""
        return not self._writable.is_set()

    def pause_writing(self) -> None:
        """The transport holds as much as it may: whoever writes waits."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Whoever waits to write goes on."""
        self._writable.set()

    async def drain(self) -> None:
        """Wait until more may be written. Cancelling is safe."""
        await self._writable.wait()
