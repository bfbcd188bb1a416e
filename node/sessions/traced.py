"""Dispatching, as part of a trace: the span of the post, whose place travels with the task."""

from node.sessions.dispatching import Attempt, Dispatcher
from node.sessions.node_load import NodeLoad
from node.sessions.planners import Planners
from node.sessions.task_request import NewTask
from node.telemetry.metrics import Metrics
from node.telemetry.trace import CURRENT, parse_in
from node.telemetry.tracing import Tracing
from shared_state import State
from shared_state.sessions import Session

__all__ = ["TracedDispatcher"]


class TracedDispatcher(Dispatcher):
    """Used where tracing is on; elsewhere a dispatch costs nothing more."""

    def __init__(
        self, state: State, planners: Planners, node_load: NodeLoad, metrics: Metrics, tracing: Tracing
    ) -> None:
        super().__init__(state, planners, node_load, metrics)
        self._tracing = tracing

    async def dispatch(self, task: NewTask, attempt: Attempt | None = None) -> Session:
        """As the other one. What asks is the request under way, or whom the message names in its metadata."""
        parent = CURRENT.get() or parse_in(task.metadata)
        with self._tracing.start("aip.post", "PRODUCER", parent, aip__client_id=task.client_id) as work:
            session = await super().dispatch(task, attempt)
            work.note(aip__session_id=session.session_id, aip__task_name=session.task_name)
            return session
