"""What is to be looked at later, by whichever node is there: clients that may stay away no longer, tasks that may wait
for their device no longer.

Every node claims what is due, a few at a time. A claim keeps others away for a while and no longer, so that what a node
claimed and did not finish is due again after its death: at least once, and looking twice must be harmless. An entry
says only when to look, never what is so: the registration or the session itself tells that.
"""

from dataclasses import dataclass
from enum import StrEnum

from shared_state.keys import Keys
from shared_state.redis.connection import Connection

__all__ = ["CLAIM_AT_MOST", "DUE_MARGIN_S", "DelayQueue", "DueItem", "DueKind"]

CLAIM_MS = 10_000
CLAIM_AT_MOST = 100
SLACK_MS = 86_400_000
# Looked at a moment after it is due, so that it is not found to be early by a hair.
DUE_MARGIN_S = 0.2


class DueKind(StrEnum):
    """What is to be looked at."""

    CLIENT = "client"
    SESSION = "session"
    # A session that ended, and whose requester may not have been told.
    END = "end"


@dataclass(frozen=True, slots=True)
class DueItem:
    """Something claimed; `claim` tells `done` which claim it was."""

    kind: DueKind
    item_id: str
    claim: bytes


class DelayQueue:
    """The index of what is due when, by the clock of Redis."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._redis = connection
        self._key = keys.due()

    async def add(self, kind: DueKind, item_id: str, in_s: float) -> None:
        """Have it looked at `in_s` from now, instead of at any time given before. Safe to repeat."""
        await self._redis.script("due_add", [self._key], [f"{kind}:{item_id}", max(0, int(in_s * 1000)), SLACK_MS])

    async def look(self) -> tuple[int, float]:
        """How much there is, and for how many seconds the oldest of it has been due. Raises StateUnavailable."""
        count = self._redis.command("ZCARD", self._key)
        first = self._redis.command("ZRANGE", self._key, 0, 0, "WITHSCORES")
        seconds, microseconds = await self._redis.command("TIME")
        found = await first
        # Redis answers with a flat list or, by another protocol, with pairs.
        score = float(found[0][1] if isinstance(found[0], list | tuple) else found[1]) if found else None
        overdue_s = 0.0 if score is None else int(seconds) + int(microseconds) / 1e6 - score / 1000
        return int(await count), max(0.0, overdue_s)

    async def claim(self) -> list[DueItem]:
        """Up to 100 items that are due, for 10 s ours alone."""
        reply = await self._redis.script("due_claim", [self._key], [CLAIM_AT_MOST, CLAIM_MS])
        items = []
        for member, claim in zip(reply[::2], reply[1::2], strict=True):
            kind, _, item_id = member.decode().partition(":")
            # A node of another version may know more kinds; what this one cannot judge is that one's.
            if kind in set(DueKind):
                items.append(DueItem(DueKind(kind), item_id, claim))
        return items

    async def forget(self, kind: DueKind, item_id: str) -> None:
        """It need not be looked at any more. Safe to repeat."""
        await self._redis.command("ZREM", self._key, f"{kind}:{item_id}")

    async def done(self, item: DueItem) -> None:
        """It was looked at: forget it, unless it became due at another time meanwhile. Safe to repeat."""
        await self._redis.script("due_done", [self._key], [f"{item.kind}:{item.item_id}", item.claim])
