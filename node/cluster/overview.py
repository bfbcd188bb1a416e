"""What a node finds when a scraper asks: its own parts, and, where it reports for the cluster, the cluster.

The cluster is read from Redis when somebody asks, at most every five seconds, by the one node that reports for it
(`Membership.reports`), from what all nodes say of themselves with their leases. While Redis is away there is nothing to
be said of it.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable

from aip_cluster.protocol import ClientType
from node.cluster.drain import Drainer
from node.cluster.membership import Membership
from node.concurrency.background import Background
from node.connections.hub import Hub
from node.gateway.admission import Admission
from node.serving.rate_limit import Clock
from node.serving.request_limits import Limits
from node.sessions.runner import Runner
from node.settings import Settings
from node.telemetry.readings import ClusterReadings, Readings
from shared_state import State
from shared_state.bus import Bus
from shared_state.errors import StateError
from shared_state.nodes import NodeInfo
from shared_state.redis.connection import MAX_WAITING

__all__ = ["Overview", "counts"]

log = logging.getLogger(__name__)

FRESH_S = 5.0
# A scrape waits for no more than that: what is known of this node is told in any case.
PATIENCE_S = 1.0


def counts(hub: Hub, runner: Runner) -> dict[str, dict[str, int]]:
    """What every node says of itself with its lease."""
    return {"connections_by_type": {str(t): n for t, n in hub.counts.items()}, "sessions_by_state": runner.counts()}


class Overview:
    """Reads the parts of one node."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        bus: Bus,
        hub: Hub,
        runner: Runner,
        limits: Limits,
        admission: Admission,
        membership: Membership,
        drainer: Drainer,
        background: Background,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._settings = settings
        self._state = state
        self._bus = bus
        self._hub = hub
        self._runner = runner
        self._limits = limits
        self._admission = admission
        self._membership = membership
        self._drainer = drainer
        self._background = background
        self._clock = clock
        self._cluster: ClusterReadings | None = None
        self._read_at: float | None = None
        self._reading = asyncio.Lock()
        # Told by the server, once there is one: TCP connections, and most of them.
        self.tcp: Callable[[], int] = lambda: 0
        self.tcp_limit = settings.max_tcp_connections

    def read(self) -> Readings:
        """This node as it is, and the cluster as it was at the last `refresh`. Never waits."""
        s = self._settings
        queues = [connection.queued_bytes for connection in self._hub]
        held, hears = self._membership.is_member, self._bus.subscribed
        return Readings(
            requests_working=self._limits.working,
            requests_limit=s.max_requests,
            requests_waiting=self._limits.waiting,
            requests_waiting_limit=s.max_waiters,
            event_streams=self._limits.streaming,
            event_streams_limit=s.max_event_streams,
            unregistered=self._admission.unregistered,
            connections_limit=s.max_connections,
            tcp_connections=self.tcp(),
            tcp_connections_limit=self.tcp_limit,
            queue_bytes=sum(queues),
            queue_largest_bytes=max(queues, default=0),
            queue_limit_bytes=s.send_queue_bytes,
            sessions_limit=s.max_sessions_per_node,
            bus_subscribed=hears,
            redis_waiting=self._state.connection.waiting,
            redis_waiting_limit=MAX_WAITING,
            redis_used_share=self._state.memory.used_share,
            ready=held and hears and not self._drainer.active,
            lease_held=held,
            background_tasks=len(self._background),
            sessions=self._runner.counts(),
            cluster=self._cluster if self._membership.reports else None,
        )

    async def refresh(self) -> None:
        """Look at the cluster, if this node reports for it. Never fails; takes a second at most. Cancelling is safe."""
        if not self._membership.reports:
            self._cluster = self._read_at = None
            return
        async with self._reading:
            if self._read_at is not None and self._clock() - self._read_at < FRESH_S:
                return
            try:
                async with asyncio.timeout(PATIENCE_S):
                    nodes, (due, overdue_s) = await asyncio.gather(
                        self._state.nodes.describe(), self._state.delay_queue.look()
                    )
            except (StateError, TimeoutError) as exc:
                self._cluster = self._read_at = None
                log.debug("cannot read the state of the cluster", extra={"reason": str(exc)})
                return
            self._cluster = _summed(nodes, due, overdue_s)
            self._read_at = self._clock()


def _summed(nodes: list[NodeInfo], due: int, overdue_s: float) -> ClusterReadings:
    draining = sum(bool(n.info.get("draining")) for n in nodes)
    connections, sessions = Counter(dict.fromkeys(map(str, ClientType), 0)), Counter({"dispatched": 0, "running": 0})
    for node in nodes:
        # A node of another version may say less.
        connections.update(node.info.get("connections_by_type", {}))
        sessions.update(node.info.get("sessions_by_state", {}))
    return ClusterReadings(
        nodes={"serving": len(nodes) - draining, "draining": draining},
        connections=connections,
        sessions=sessions,
        due=due,
        due_overdue_s=overdue_s,
    )
