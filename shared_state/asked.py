"""Which sessions a client asked for, so that they can be found when it has left for good.

A hint, not a promise: an entry may outlive its session, and is dropped with the session's deadline. Whether the session
is still under way, and whose it is, the session itself says. At most 1,000 entries a client, the latest deadlines.
Every call raises StateUnavailable while Redis is away.
"""

from collections.abc import Sequence

from shared_state.clock import Clock
from shared_state.keys import Keys
from shared_state.redis.connection import Connection

__all__ = ["Asked"]

BOUND = 1_000
SLACK_MS = 60_000


class Asked:
    """The sessions that clients asked for over their sockets."""

    def __init__(self, connection: Connection, keys: Keys, clock: Clock) -> None:
        self._redis = connection
        self._keys = keys
        self._clock = clock

    async def add(self, client_id: str, session_id: str, deadline_ms: int) -> None:
        """Note that the client asked for a session that ends by `deadline_ms`. Safe to repeat."""
        key, now_ms = self._keys.asked(client_id), self._clock.now_ms()
        over = self._redis.command("ZREMRANGEBYSCORE", key, "-inf", now_ms)
        # The same operation as for what is due: a member with a moment, and a life that reaches beyond it.
        added = self._redis.script("due_add", [key], [session_id, max(deadline_ms - now_ms, 0), SLACK_MS])
        bounded = self._redis.command("ZREMRANGEBYRANK", key, 0, -BOUND - 1)
        await over
        await added
        await bounded

    async def of(self, client_id: str) -> list[str]:
        """The ids of the sessions that the client asked for, and that may be under way."""
        reply = await self._redis.command("ZRANGE", self._keys.asked(client_id), 0, -1)
        return [member.decode() for member in reply]

    async def forget(self, client_id: str, session_ids: Sequence[str]) -> None:
        """The client has left for good, and these sessions were dealt with. Safe to repeat."""
        if session_ids:
            await self._redis.command("ZREM", self._keys.asked(client_id), *session_ids)
