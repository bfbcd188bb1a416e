"""The sending half of a socket, shared by everyone who has something to say on it.

A chunk of a file is two frames that must stand together; everything else may go between chunks, and waits for one
chunk at most.
"""

import asyncio

from websockets.asyncio.client import ClientConnection

__all__ = ["Wire"]


class Wire:
    """Sends whole messages. Raises ConnectionClosed. To be cancelled only when the socket is given up."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._lock = asyncio.Lock()

    async def send(self, frame: bytes) -> None:
        """One text frame."""
        async with self._lock:
            await self._socket.send(frame, text=True)

    async def send_chunk(self, header: bytes, data: bytes) -> None:
        """A text frame and the binary frame that it announces, with nothing between them."""
        async with self._lock:
            await self._socket.send(header, text=True)
            await self._socket.send(data, text=False)
