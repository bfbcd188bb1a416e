"""What ASGI cannot do with a WebSocket: a ping, now, whatever its keep-alive period; messages without a detour.

The server's protocol object does it, and is in the scope of each socket (`node.serving.websocket_protocol.SOCKET`).
Where there is none (another server, a test without a network) the socket counts as alive as long as it is open.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from node.serving.websocket_protocol import WebSocketProtocol

__all__ = ["Keepalive"]

LOOK_EVERY_S = 0.02


class Keepalive:
    """The pulse of one socket."""

    __slots__ = ("_protocol", "write")

    def __init__(self, protocol: WebSocketProtocol | None = None) -> None:
        self._protocol = protocol
        # Writes a text message; False, and nothing is written, where only ASGI can do it, or it would have to wait.
        self.write: Callable[[bytes], bool] = _cannot_write if protocol is None else protocol.write_text

    def listen(self, hear: Callable[[Any], bool] | None) -> None:
        """Have text messages told to `hear` in the turn in which they come, while somebody waits for the next one.

        What it returns False for is queued, as everything is where only ASGI can tell.
        """
        if self._protocol is not None:
            self._protocol.hear = hear

    def admit(self) -> None:
        """The client is known: its messages may be large from now on."""
        if self._protocol is not None:
            self._protocol.admit()

    def cut(self) -> None:
        """End the connection without a word."""
        if self._protocol is not None:
            self._protocol.transport.abort()

    async def beats(self, timeout_s: float) -> bool:
        """Whether the peer answers a ping within `timeout_s`. Cancelling is safe."""
        protocol = self._protocol
        if protocol is None:
            return True
        if protocol.transport.is_closing():
            return False
        if not protocol.awaits_pong:
            protocol.ping()
        loop = asyncio.get_running_loop()
        end, progress = loop.time() + timeout_s, protocol.progress
        while protocol.awaits_pong:
            if loop.time() >= end:
                # While a frame is handled nothing is read, and behind a large one a pong waits: not the peer's silence.
                return not protocol.is_reading or protocol.is_occupied(progress)
            await asyncio.sleep(LOOK_EVERY_S)
        return not protocol.transport.is_closing()

    async def answers(self) -> bool:
        """Whether the peer answers a ping that is sent now, and so has read whatever was sent to it before.

        Waits as long as the keep-alive does before it gives a socket up. Cancelling is safe.
        """
        protocol = self._protocol
        if protocol is None:
            return True
        # A ping that is on its way already says nothing of what was sent behind it.
        if await self._ponged(protocol):
            protocol.ping()
            return await self._ponged(protocol)
        return False

    @staticmethod
    async def _ponged(protocol: WebSocketProtocol) -> bool:
        # Asked for once in a while, and not to the millisecond: not worth an event in every socket.
        while protocol.awaits_pong and not protocol.transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)
        return not protocol.transport.is_closing()


def _cannot_write(frame: bytes) -> bool:  # noqa: ARG001 - as WebSocketProtocol.write_text
    return False
