"""Is anybody there? A WebSocket ping to one socket, now, whatever its keep-alive period.

uvicorn's protocol object sends the pings of the keep-alive and matches the pongs; an application cannot send its own.
So the ping that is due anyway is sent now, and the pong is seen by what the protocol object remembers. Where there is
no such object (another server, a test without a network) the socket counts as alive as long as it is open.
"""

import asyncio
from typing import Any

__all__ = ["Pulse"]

LOOK_EVERY_S = 0.02


class Pulse:
    """The pulse of one socket; `protocol` is uvicorn's object, if there is one."""

    __slots__ = ("_begun", "_echoed", "_protocol", "_turn")

    def __init__(self, protocol: Any = None) -> None:
        # How many pings `echoes` has begun, the last of them that was answered, and whose turn it is.
        self._begun = self._echoed = 0
        self._turn = asyncio.Lock()
        known = all(
            hasattr(protocol, name)
            for name in ("transport", "pending_ping_payload", "send_keepalive_ping", "read_paused")
        )
        self._protocol = protocol if known else None

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
            if protocol.ping_timer is not None:
                protocol.ping_timer.cancel()
            protocol.send_keepalive_ping()
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while protocol.pending_ping_payload is not None:
            if loop.time() >= end:
                # Nothing is read while a frame is being handled: then the silence is this node's.
                return bool(protocol.read_paused)
            await asyncio.sleep(LOOK_EVERY_S)
        return not protocol.transport.is_closing()

    async def echoes(self, timeout_s: float) -> bool:
        """Whether the peer answers a ping that is sent after this call: what was sent before the call has then arrived.

        Those who call together share a ping. Cancelling is safe.
        """
        if self._protocol is None:
            return True
        wanted = self._begun + 1
        async with self._turn:
            if self._echoed >= wanted:
                return True
            self._begun += 1
            begun = self._begun
            # A ping that is under way already was sent too early to tell.
            early = self._protocol.pending_ping_payload is not None
            if not await self.beats(timeout_s) or (early and not await self.beats(timeout_s)):
                return False
            # `beats` also says yes to a peer that could not be heard.
            if self._protocol.pending_ping_payload is not None:
                return False
            self._echoed = begun
            return True
