"""What other nodes say over the bus, handed to whom it concerns; and what is looked after once the bus was away.

A frame is a wake-up, never the only copy: one that is lost is made up for by whoever looks again after the gap.
"""

from node.cluster.membership import Membership
from node.concurrency.background import Background
from node.gateway.delivery import Deliverer
from node.gateway.disconnect import Disconnect
from node.gateway.takeover import Probes
from node.sessions.node_load import NodeLoad
from node.sessions.waiters import Waiters
from node.telemetry.metrics import Metrics
from shared_state.bus import ORDER

__all__ = ["BusFrames"]


class BusFrames:
    """The node's side of the bus: `on_frame` and `on_gap` are for `Bus.start`."""

    def __init__(
        self,
        deliverer: Deliverer,
        waiters: Waiters,
        followers: Waiters,
        probes: Probes,
        node_load: NodeLoad,
        disconnect: Disconnect,
        membership: Membership,
        background: Background,
        metrics: Metrics,
    ) -> None:
        self._deliverer = deliverer
        self._waiters = waiters
        self._followers = followers
        self._probes = probes
        self._node_load = node_load
        self._disconnect = disconnect
        self._membership = membership
        self._background = background
        self._metrics = metrics

    def on_frame(self, kind: bytes, rest: bytes) -> None:
        """One frame, counted by its kind. Never waits."""
        if kind == ORDER:
            self._metrics.frames_heard["inbox"].inc()
            self._deliverer.on_order(rest)
        elif kind == b"inbox":
            self._metrics.frames_heard["inbox"].inc()
            self._deliverer.on_wakeup(rest)
        elif kind == b"ended":
            self._metrics.frames_heard["ended"].inc()
            self._waiters.wake(rest.decode())
        elif kind == b"event":
            self._metrics.frames_heard["event"].inc()
            self._followers.wake(rest.decode())
        elif kind == b"probe":
            self._metrics.frames_heard["probe"].inc()
            self._probes.on_probe(rest)
        elif kind == b"probed":
            self._metrics.frames_heard["probed"].inc()
            self._probes.on_probed(rest)
        elif kind == b"load":
            self._metrics.frames_heard["load"].inc()
            self._node_load.on_question(rest)
        elif kind == b"loaded":
            self._metrics.frames_heard["loaded"].inc()
            self._node_load.on_answer(rest)
        elif kind == b"evict":
            self._metrics.frames_heard["evict"].inc()
            self._background.spawn(self._disconnect.on_evict(rest), "evict")
        else:
            self._metrics.frames_heard["unknown"].inc()

    async def on_gap(self) -> None:
        """The bus is back: everybody looks again, and whoever was taken over meanwhile gives way."""
        self._metrics.bus_gaps.inc()
        self._waiters.wake_all()
        self._followers.wake_all()
        await self._deliverer.drain_all()
        self._membership.compare_soon()
