"""What ASGI cannot do with a WebSocket: a ping, now, whatever its keep-alive period; messages without a detour.

uvicorn's protocol object sends the pings of the keep-alive and matches the pongs; an application cannot send its own.
So the ping that is due anyway is sent now, and the pong is seen by what the protocol object remembers. Where there is
no such object (another server, a test without a network) the socket counts as alive as long as it is open.
"""

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["Keepalive"]

LOOK_EVERY_S = 0.02


class Keepalive:
    """The pulse of one socket; `protocol` is uvicorn's object, if there is one."""

    __slots__ = ("_protocol", "write")

    def __init__(self, protocol: Any = None) -> None:
        known = all(
            hasattr(protocol, name)
            for name in ("transport", "pending_ping_payload", "send_keepalive_ping", "read_paused")
        )
        self._protocol = protocol if known else None
        # Writes a text message; False, and nothing is written, where only ASGI can do it, or it would have to wait.
        self.write: Callable[[bytes], bool] = getattr(self._protocol, "write_text", _cannot_write)

    def listen(self, hear: Callable[[Any], bool] | None) -> None:
        """Have text messages told to `hear` in the turn in which they come, while somebody waits for the next one.

        What it returns False for is queued, as everything is where only ASGI can tell.
        """
        protocol = self._protocol
        if protocol is not None and hasattr(protocol, "hear"):
            protocol.hear = hear

    def admit(self) -> None:
        """The client is known: its messages may be large from now on."""
        admit = getattr(self._protocol, "admit", None)
        if admit is not None:
            admit()

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
        if protocol.pending_ping_payload is None:
            self._ping(protocol)
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        progress: int = getattr(protocol, "progress", 0)
        is_occupied: Callable[[int], bool] = getattr(protocol, "is_occupied", lambda _: False)
        while protocol.pending_ping_payload is not None:
            if loop.time() >= end:
                # While a frame is handled nothing is read, and behind a large one a pong waits: not the peer's silence.
                return bool(protocol.read_paused or is_occupied(progress))
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
            self._ping(protocol)
            return await self._ponged(protocol)
        return False

    @staticmethod
    def _ping(protocol: Any) -> None:
        if protocol.ping_timer is not None:
            protocol.ping_timer.cancel()
        protocol.send_keepalive_ping()

    @staticmethod
    async def _ponged(protocol: Any) -> bool:
        # uvicorn has no event for a pong.
        while protocol.pending_ping_payload is not None and not protocol.transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)
        return not protocol.transport.is_closing()


def _cannot_write(frame: bytes) -> bool:  # noqa: ARG001 - as WebSocketProtocol.write_text
    return False
