"""How a node is told something: a frame on its channel, published by a script or right behind it.

Alone or under Sentinel, the script that stores a message also publishes the wake-up: one round trip. In a Redis Cluster
the channel is in another slot than the message; the script then gets an empty prefix, answers whom it would have told,
and the caller tells them here. This module is the only one that knows the difference.

A frame is `kind`, then fields, separated by newlines; the last field may hold anything. Only the order of a session
goes as it is stored, a JSON object: it is the most frequent frame, and its script need not make another text of it.
"""

import asyncio
import logging
from collections.abc import Iterable

from shared_state.errors import StateUnavailable
from shared_state.keys import Keys
from shared_state.redis.connection import Connection

__all__ = ["Publisher"]

log = logging.getLogger(__name__)

# A channel's slot may be failing over just now, while the message's is well.
PAUSES_S = (0.05, 0.2)


class Publisher:
    """Speaks to nodes by their ids."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._redis = connection
        self._keys = keys
        # What a script puts before a node id to publish; '' where it must leave that to its caller.
        self.script_prefix = keys.channel_prefix() if connection.one_server else ""

    async def tell(self, node_id: str, kind: str, *fields: str | bytes) -> int:
        """Publish a frame to a node; returns how many heard it. Raises StateUnavailable after a few attempts.

        A frame may arrive twice, if the answer to the first attempt got lost.
        """
        frame = b"\n".join(f if isinstance(f, bytes) else f.encode() for f in (kind, *fields))
        for pause_s in PAUSES_S:
            try:
                receivers = await self._redis.publish(self._keys.channel(node_id), frame)
                break
            except StateUnavailable:
                await asyncio.sleep(pause_s)
        else:
            receivers = await self._redis.publish(self._keys.channel(node_id), frame)
        self.note(kind, receivers)
        return receivers

    def note(self, kind: str, receivers: int) -> None:
        """A frame was said to a node, here or by a script: counted, for metrics."""
        if self._redis.on_said is not None:
            self._redis.on_said(kind, receivers)

    async def tell_all(self, node_ids: Iterable[str], kind: str, *fields: str | bytes) -> None:
        """Wake nodes that look for themselves sooner or later: one that cannot be told is left to do so."""
        told = await asyncio.gather(*(self.tell(n, kind, *fields) for n in node_ids), return_exceptions=True)
        for outcome in told:
            if isinstance(outcome, StateUnavailable):
                log.warning("cannot publish to a node", extra={"kind": kind, "reason": str(outcome)})
            elif isinstance(outcome, BaseException):
                raise outcome
