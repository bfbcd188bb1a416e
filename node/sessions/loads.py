"""How many sessions each node holds, as far as this node knows: the bound on sessions per node.

A session runs on the node that holds its device, so it is that node's count that matters. Every node publishes its
count with its lease; here the counts are read in the background, at most once a second and only while something is
dispatched, and what this node has sent since then is added. For devices of this very node the bound holds, but for
tasks that are a few milliseconds old. For others it may be passed by what all nodes together send there within about
two seconds; and close to it, what was sent within a second counts even if it has ended. When Redis is away the counts
grow old, and what is older than 10 s limits nobody.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable

from node.background import Background
from node.pace import Clock
from shared_state.errors import StateError, TooManySessions
from shared_state.nodes import Nodes

__all__ = ["NodeLoads"]

log = logging.getLogger(__name__)

FRESH_S = 1.0
OLD_S = 10.0


class NodeLoads:
    """The counts of the cluster's nodes, seen from one of them. `own_sessions` tells this node's."""

    def __init__(
        self,
        nodes: Nodes,
        background: Background,
        *,
        node_id: str,
        own_sessions: Callable[[], int],
        most: int,
        clock: Clock = time.monotonic,
    ) -> None:
        self._nodes = nodes
        self._background = background
        self._node_id = node_id
        self._own_sessions = own_sessions
        self._most = most
        self._clock = clock
        self._read_at = -OLD_S
        self._reading = False
        self._counts: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()

    def check(self, node_id: str) -> None:
        """Count one more session for a node. Raises TooManySessions if it holds as many as it may. Never waits."""
        if node_id and self._count(node_id) >= self._most:
            raise TooManySessions(
                f"The device's node has {self._most} sessions under way, as many as it may (max_sessions_per_node)",
                of_device=False,
            )
        self._sent[node_id] += 1

    def _count(self, node_id: str) -> int:
        if node_id == self._node_id:
            return self._own_sessions()
        age_s = self._clock() - self._read_at
        if age_s >= FRESH_S and not self._reading:
            self._reading = True
            self._background.spawn(self._read(), "node-loads")
        return self._counts[node_id] + self._sent[node_id] if age_s < OLD_S else 0

    async def _read(self) -> None:
        try:
            sent_before = self._sent.copy()
            described = await self._nodes.describe()
        except StateError as exc:
            log.debug("the counts of sessions stay as they are", extra={"reason": str(exc)})
            return
        finally:
            self._reading = False
        self._counts = Counter({n.node_id: int(n.info.get("sessions", 0)) for n in described})
        self._sent.subtract(sent_before)
        self._sent = +self._sent
        self._read_at = self._clock()
