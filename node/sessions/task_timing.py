"""How far a task has come, and how long each stage took: handed over, acknowledged, at work, over.

One small object a session, on the node that holds its device. What a node took over from another (the device came back
here) has no beginning here: only its end is timed, from the dispatch. Of a task that is traced, and where tracing is
on, the stages are spans too: `aip.deliver` until it is in the socket's queue, under it `aip.session` until the end, and
under whatever the device says it did, or under that, an `aip.answer` for each message that names a trace.
"""

import time
from typing import Any

from aip_cluster.protocol import ClientMessage
from aip_cluster.protocol.ids import now_ms
from node.sessions.task_spec import TaskSpec
from node.telemetry.metrics import Metrics
from node.telemetry.trace import CURRENT, TRACEPARENT, parse, parse_in
from node.telemetry.tracing import Tracing, Work

__all__ = ["TaskTiming"]


class TaskTiming:
    """The stages of one session. Every method may be called again, and then does nothing."""

    __slots__ = (
        *("_acknowledged", "_began_at", "_created_ms", "_delivered_at", "_delivery", "_exemplar"),
        *("_metrics", "_tracing", "_whole"),
    )

    def __init__(self, metrics: Metrics, tracing: Tracing | None, order: TaskSpec) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._created_ms = order.created_ms
        self._delivered_at = 0.0
        self._began_at = 0.0
        self._acknowledged = False
        self._delivery: Work | None = None
        self._whole: Work | None = None
        self._exemplar: dict[str, str] | None = None
        if tracing is not None and order.trace:
            self._trace(tracing, order)

    # -- stages --------------------------------------------------------------------------------------------------------
    def delivered(self) -> None:
        """The task is in the queue of its device's socket."""
        if not self._delivered_at:
            self._delivered_at = time.monotonic()
            # By the clocks of two nodes, which may differ.
            took_s = max(0.0, (now_ms() - self._created_ms) / 1000)
            self._metrics.task_delivery.observe(took_s, self._exemplar)
            if self._delivery is not None:
                self._delivery.end()

    def acknowledged(self, message: ClientMessage) -> None:
        """The device said something about it."""
        if not self._acknowledged and self._delivered_at:
            self._acknowledged = True
            self._metrics.task_acknowledgement.observe(time.monotonic() - self._delivered_at, self._exemplar)
        if self._whole is not None:
            self._trace_answer(self._whole, message)

    def began(self) -> None:
        """The work has begun."""
        if not self._began_at and self._delivered_at:
            self._began_at = time.monotonic()

    def ended(self, state: str) -> None:
        """It is over. Called once, before `left`."""
        metrics, exemplar = self._metrics, self._exemplar
        whole_s = (now_ms() - self._created_ms) / 1000
        metrics.session_seconds[state].observe(whole_s if whole_s > 0.0 else 0.0, exemplar)
        began_at = self._began_at or self._delivered_at
        if began_at:
            metrics.task_run[state].observe(time.monotonic() - began_at, exemplar)
        if self._whole is not None:
            self._whole.note(aip__state=state)
            if state != "completed":
                self._whole.fail(state)
            self._whole.end()

    def left(self) -> None:
        """Nothing more of it happens here, whether it has ended or goes on elsewhere."""
        if self._whole is not None and self._delivery is not None:
            self._delivery.end()
            self._whole.end()

    # -- the trace -----------------------------------------------------------------------------------------------------
    def enter(self) -> None:
        """What this asyncio task does from here on belongs to the session. For tasks that do nothing else."""
        if self._whole is not None:
            CURRENT.set(self._whole.context)

    @property
    def carried(self) -> dict[str, Any] | None:
        """The metadata of a message to the device."""
        return None if self._whole is None else {TRACEPARENT: self._whole.context.traceparent}

    @property
    def facts(self) -> dict[str, str]:
        """What an event of the session says of the trace."""
        return {} if self._whole is None else {"trace_id": self._whole.context.trace_id}

    def _trace(self, tracing: Tracing, order: TaskSpec) -> None:
        names = {"aip__session_id": order.session_id, "aip__client_id": order.client_id}
        self._delivery = tracing.start("aip.deliver", "CONSUMER", parse(order.trace), **names)
        place = self._delivery.context
        self._whole = tracing.start("aip.session", "INTERNAL", place, aip__task_name=order.task_name, **names)
        self._exemplar = place.exemplar

    def _trace_answer(self, whole: Work, message: ClientMessage) -> None:
        said = parse_in(message.metadata)
        # A device may say anything: another trace than its task's is not continued.
        if said is not None and said.trace_id == whole.context.trace_id and self._tracing is not None:
            kind = {"aip__message_type": message.type.value}
            self._tracing.start("aip.answer", "CONSUMER", said, **kind).end()
