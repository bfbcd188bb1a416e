"""How far a task has come, and how long each stage took: handed over, acknowledged, at work, over.

One small object a session, on the node that holds its device. What a node took over from another (the device came back
here) has no beginning here: only its end is timed, from the dispatch.
"""

import time

from aip.ids import now_ms
from node.sessions.orders import TaskOrder
from node.telemetry.metrics import Metrics

__all__ = ["Stages"]


class Stages:
    """The stages of one session. Every method may be called again, and then does nothing."""

    __slots__ = ("_acknowledged", "_began_at", "_created_ms", "_delivered_at", "_metrics")

    def __init__(self, metrics: Metrics, order: TaskOrder) -> None:
        self._metrics = metrics
        self._created_ms = order.created_ms
        self._delivered_at = 0.0
        self._began_at = 0.0
        self._acknowledged = False

    def delivered(self) -> None:
        """The task is in the queue of its device's socket."""
        if not self._delivered_at:
            self._delivered_at = time.monotonic()
            # By the clocks of two nodes, which may differ.
            self._metrics.task_delivery.observe(max(0.0, (now_ms() - self._created_ms) / 1000))

    def acknowledged(self) -> None:
        """The device said something about it."""
        if not self._acknowledged and self._delivered_at:
            self._acknowledged = True
            self._metrics.task_acknowledgement.observe(time.monotonic() - self._delivered_at)

    def began(self) -> None:
        """The work has begun."""
        if not self._began_at and self._delivered_at:
            self._began_at = time.monotonic()

    def ended(self, state: str) -> None:
        """It is over. Called once."""
        self._metrics.session_seconds[state].observe(max(0.0, (now_ms() - self._created_ms) / 1000))
        began_at = self._began_at or self._delivered_at
        if began_at:
            self._metrics.task_run[state].observe(time.monotonic() - began_at)
