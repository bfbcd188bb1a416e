"""Answers on their way to the socket, kept while there is none."""

import asyncio
import logging
from collections import OrderedDict

from aip_cluster.protocol import new_id

__all__ = ["Outbox"]

logger = logging.getLogger(__name__)


class Outbox:
    """Oldest first, each `response_id` at most once.

    Bounded: over 512 answers or 32 MiB the oldest are dropped, with a warning; the server may ask for them again.
    """

    def __init__(self, max_answers: int = 512, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._frames: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._filled = asyncio.Event()

    def put(self, response_id: str | None, frame: bytes) -> None:
        """Add an answer; one for the same `response_id` that has not left yet is replaced where it stands."""
        key = response_id if response_id is not None else new_id()
        self._bytes += len(frame) - len(self._frames.get(key, b""))
        self._frames[key] = frame
        while len(self._frames) > self._max_answers or (self._bytes > self._max_bytes and len(self._frames) > 1):
            dropped, old = self._frames.popitem(last=False)
            self._bytes -= len(old)
            logger.warning("too many answers wait for the connection: dropped that to %r", dropped)
        self._filled.set()

    async def first(self) -> tuple[str, bytes]:
        """The oldest answer, waiting for one; it stays until discarded. Cancelling is safe."""
        while not self._frames:
            self._filled.clear()
            await self._filled.wait()
        return next(iter(self._frames.items()))

    def discard(self, key: str, frame: bytes) -> None:
        """Remove an answer that was sent, unless another has taken its place meanwhile."""
        if self._frames.get(key) is frame:
            del self._frames[key]
            self._bytes -= len(frame)
