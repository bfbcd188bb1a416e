"""Asking a planner what is next: with the tools of the device, counted, timed, and refused where it makes no sense.

Nothing is kept of a session here. Cancelling is safe. Whatever a planner raises fails that session and no other.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from aip_cluster.protocol.ids import now_ms
from node.connections.connection import Connection
from node.sessions.planners import Act, Finish, Planner
from node.sessions.platforms import AgentNames
from node.sessions.session import SessionMachine
from node.sessions.tool_catalog import ToolCatalog
from node.telemetry.metrics import Metrics

__all__ = ["Planned", "Planning"]

log = logging.getLogger(__name__)

EVENT_TEXT_CHARS = 4096


class Planned(NamedTuple):
    """What a planner decided. `event` says what it cost; None where that is nothing."""

    answer: Act | Finish
    event: dict[str, Any] | None = None


class Planning:
    """Asks the planners of this node's sessions."""

    def __init__(self, tools: ToolCatalog, metrics: Metrics) -> None:
        self._tools = tools
        self._metrics = metrics

    async def next(self, session: SessionMachine, planner: Planner, connection: Connection) -> Planned:
        """The next step of a session, or its end."""
        try:
            return await self._next(session, planner, connection)
        except Exception:
            log.exception("a session broke", extra={"session_id": session.spec.session_id})
            return Planned(Finish(error="The session broke inside the node"))

    async def _next(self, session: SessionMachine, planner: Planner, connection: Connection) -> Planned:
        task = session.task
        if planner.wants_tools:
            task.tools = await self._tools.tools(session, connection, _agents(session))
        started = time.monotonic()
        task.time_left_s = max(0.0, (session.spec.deadline_ms - now_ms()) / 1000)
        answer = await planner.next(task)
        task.tokens += answer.tokens
        event = None
        if planner.wants_tools or answer.tokens.total:
            event = self._count(planner, answer, time.monotonic() - started)
        if isinstance(answer, Act) and not planner.wants_tools:
            # A planner that wants tools was given those that there are.
            refusal = await self._tools.refusal(session, connection, answer.calls, session.names)
            if refusal is not None:
                answer = Finish(error=refusal)
        return Planned(answer, event)

    def _count(self, planner: Planner, answer: Act | Finish, took_s: float) -> dict[str, Any]:
        if isinstance(answer, Act) or answer.asked:
            self._metrics.llm_calls.labels(_outcome(answer)).inc()
            self._metrics.llm_seconds.observe(took_s)
        tokens = answer.tokens
        self._metrics.llm_tokens.labels("prompt").inc(tokens.prompt)
        self._metrics.llm_tokens.labels("completion").inc(tokens.completion)
        event = {
            "event": "plan",
            "planner": planner.name,
            "tokens": {"prompt": tokens.prompt, "completion": tokens.completion},
            "took_ms": int(took_s * 1000),
        }
        if isinstance(answer, Act) and answer.text:
            event["text"] = answer.text[:EVENT_TEXT_CHARS]
        return event


def _agents(session: SessionMachine) -> Sequence[AgentNames]:
    """Whose tools are offered: every agent of the platform that has any now, or the one that was named."""
    platform, names = session.platform, session.names
    if "agent_name" in session.spec.metadata or len(platform.agents) < 2:
        return [names]
    in_focus = names.process_name or names.root_name
    return [
        replace(names, agent_name=agent)
        for agent in platform.agents
        if in_focus or agent not in platform.focused_agents
    ]


def _outcome(answer: Act | Finish) -> str:
    """How an answer of a model is counted. Without any tokens there was none: that is what its error says."""
    if isinstance(answer, Act):
        return "act"
    return "error" if answer.error and not answer.tokens.total else "finish"
