"""How many sessions each node holds, as far as this node knows: the bound on sessions per node.

A session runs on the node that holds its device, so it is that node's count that matters. Every node publishes its
count with its lease; here the counts are read in the background, at most once a second and only while something is
dispatched, and what this node has sent since then is added. Most of that has ended by then, as tasks are short: once it
makes up a part of what the node may take, the node itself is asked over the bus, every 50 ms at most.

Until it has answered the sum stands, so that a node that is behind with what it hears is sent no more than it may hold;
one that does not answer at all is taken at its published word again, once a second. For devices of this very node the
bound holds, but for tasks that are a few milliseconds old. For others it may be passed by what is sent there within
about two seconds. When Redis is away the counts grow old, and what is older than 10 s limits nobody.
"""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from node.concurrency.background import Background
from node.serving.rate_limit import Clock
from shared_state.errors import StateError, TooManySessions
from shared_state.nodes import Nodes

__all__ = ["NodeLoad"]

log = logging.getLogger(__name__)

FRESH_S = 1.0
OLD_S = 10.0
# A node is asked once so large a part of what it may take has been sent to it; so often at most, and again after so
# long without an answer.
WORTH_ASKING = 0.25
ASK_EVERY_S = 0.05
ANSWER_S = 1.0
# A count that was published with a lease is older than what its node answered so lately.
LEASE_AGE_S = 3.0

# Says a frame to a node: its id, the kind of the frame, its fields.
Tell = Callable[..., Awaitable[int]]


class _Asked:
    """What is known of the questions to one node: when it was asked and when it answered, last."""

    __slots__ = ("answered_at", "asked_at", "sent_before", "waits")

    def __init__(self, now: float) -> None:
        self.asked_at = now - OLD_S
        self.answered_at = now - OLD_S
        # What had been sent when it was asked.
        self.sent_before = 0
        self.waits = False


class NodeLoad:
    """The counts of the cluster's nodes, seen from one of them. `own_sessions` tells this node's."""

    def __init__(
        self,
        nodes: Nodes,
        background: Background,
        tell: Tell,
        *,
        node_id: str,
        own_sessions: Callable[[], int],
        most: int,
        clock: Clock = time.monotonic,
    ) -> None:
        self._nodes = nodes
        self._background = background
        self._tell = tell
        self._node_id = node_id
        self._own_sessions = own_sessions
        self._most = most
        self._clock = clock
        self._read_at = -OLD_S
        self._reading = False
        self._counts: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        # Of nodes that live: forgotten with their leases.
        self._asked: dict[str, _Asked] = {}

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
        now = self._clock()
        age_s = now - self._read_at
        if age_s >= FRESH_S and not self._reading:
            self._reading = True
            self._background.spawn(self._read(), "node-loads")
        if age_s >= OLD_S:
            return 0
        counted, sent = self._counts[node_id], self._sent[node_id]
        if sent >= (self._most - counted) * WORTH_ASKING:
            self._ask(node_id, now)
        return counted + sent

    # -- as published --------------------------------------------------------------------------------------------------
    async def _read(self) -> None:
        try:
            sent_before = self._sent.copy()
            described = await self._nodes.describe()
        except StateError as exc:
            log.debug("the counts of sessions stay as they are", extra={"reason": str(exc)})
            return
        finally:
            self._reading = False
        self._read_at = self._clock()
        published = {n.node_id: int(n.info.get("sessions", 0)) for n in described}
        self._asked = {node_id: asked for node_id, asked in self._asked.items() if node_id in published}
        for node_id, asked in self._asked.items():
            if self._read_at - asked.answered_at < LEASE_AGE_S:
                published[node_id] = self._counts[node_id]
                sent_before[node_id] = 0
            else:
                # An answer to a question of before would take off once more what is taken off now.
                asked.waits = False
        self._counts = Counter(published)
        self._sent.subtract(sent_before)
        self._sent = +self._sent

    # -- as asked ------------------------------------------------------------------------------------------------------
    def _ask(self, node_id: str, now: float) -> None:
        asked = self._asked.get(node_id)
        if asked is None:
            asked = self._asked[node_id] = _Asked(now)
        if now - asked.asked_at < (ANSWER_S if asked.waits else ASK_EVERY_S):
            return
        asked.asked_at, asked.sent_before, asked.waits = now, self._sent[node_id], True
        self._background.spawn(self._say(node_id, "load", self._node_id), "node-load")

    async def _say(self, *frame: str) -> None:
        try:
            await self._tell(*frame)
        except StateError as exc:
            log.debug("a node's load was not asked for or told", extra={"reason": str(exc)})

    def on_question(self, rest: bytes) -> None:
        """A frame `<node that asks>`."""
        self._background.spawn(
            self._say(rest.decode(), "loaded", self._node_id, str(self._own_sessions())), "node-load"
        )

    def on_answer(self, rest: bytes) -> None:
        """A frame `<node>\\n<sessions>`: it has heard, mostly, what was sent to it before it was asked."""
        node_id, _, sessions = rest.decode().partition("\n")
        asked = self._asked.get(node_id)
        if asked is None or not asked.waits:
            return
        asked.waits, asked.answered_at = False, self._clock()
        self._counts[node_id] = int(sessions)
        self._sent[node_id] = max(0, self._sent[node_id] - asked.sent_before)
