"""The cluster's clock: that of Redis, as nearly as a node can tell.

What several nodes note of one session must stand in order although their clocks differ. A node compares its own with
that of Redis whenever it renews its lease, and corrects what it notes by the difference; a script need not ask for the
time. While Redis is away the last difference stands, and before the first there is none.
"""

from aip_cluster.protocol.ids import now_ms

__all__ = ["Clock"]


class Clock:
    """Time of the cluster, ms since the epoch."""

    def __init__(self) -> None:
        # How far Redis' clock is ahead of this machine's.
        self.ahead_ms = 0

    def now_ms(self) -> int:
        """Now."""
        return now_ms() + self.ahead_ms

    def at(self, local_ms: int) -> int:
        """A moment of this machine's clock, by the cluster's."""
        return local_ms + self.ahead_ms

    def compare(self, redis_ms: int, *, asked_ms: int, answered_ms: int) -> None:
        """Take note of what Redis' clock showed between a question and its answer, by this machine's clock."""
        if asked_ms <= redis_ms <= answered_ms:
            # Nothing says that they differ, and a guess would make two steps of one node differ instead.
            self.ahead_ms = 0
        else:
            self.ahead_ms = redis_ms - (asked_ms + answered_ms) // 2
