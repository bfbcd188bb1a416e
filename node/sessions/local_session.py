"""A session as the node that runs it holds it in memory: everything here can be lost with the node."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aip_cluster.protocol import ClientMessage, ServerMessageType, utc_now
from node.connections.connection import Connection
from node.sessions.planners import Act, Planner, Tokens, Turn
from node.sessions.platforms import AgentNames, Platform
from node.sessions.task_spec import TaskSpec
from node.sessions.task_timing import TaskTiming
from shared_state.sessions import Behind

__all__ = ["BEHIND_BOUND", "LocalSession", "Restored"]

# While Redis is away, so many events of a session are kept.
BEHIND_BOUND = 100


@dataclass(slots=True)
class Restored:
    """How far a session got over earlier connections of its device, from its journal.

    `act` is the step whose results are not known, sent under `response_id`.
    """

    turns: list[Turn] = field(default_factory=list)
    act: Act | None = None
    response_id: str = ""
    tokens: Tokens = field(default_factory=Tokens)


class LocalSession:
    """A session under way on a device of this node."""

    __slots__ = (
        *("order", "session_id", "connection", "planner", "platform", "timing", "restored"),
        *(
            "due_tick",
            "echo_timer",
            "driver",
            "pending",
            "echoed",
            "running",
            "over",
            "in_step",
            "behind",
            "storing",
            "storing_behind",
            "has_stored",
        ),
    )

    def __init__(
        self,
        order: TaskSpec,
        connection: Connection,
        planner: Planner,
        platform: Platform,
        stages: TaskTiming,
        *,
        restored: Restored | None = None,
    ) -> None:
        self.order = order
        self.session_id = order.session_id
        self.connection = connection
        self.planner = planner
        self.platform = platform
        self.timing = stages
        # Nothing where it begins here.
        self.restored = restored
        # Its place among the deadlines.
        self.due_tick = 0
        self.echo_timer: asyncio.TimerHandle | None = None
        self.driver: asyncio.Task[None] | None = None
        # Commands on the device: response id → where its answer goes.
        self.pending: dict[str, asyncio.Future[ClientMessage]] = {}
        self.echoed = False
        self.running = False
        self.over = False
        # A step is stored and its results are not: whoever took the session over now could not know them.
        self.in_step = False
        # What happened here and is not stored yet.
        self.behind = Behind()
        # Done when what is on its way to Redis is stored, or not.
        self.storing: asyncio.Future[None] | None = None
        self.storing_behind = False
        # Whether anything of it may be stored but its start.
        self.has_stored = restored is not None

    @property
    def agent(self) -> AgentNames:
        """Which tool set of the device serves it."""
        return self.platform.names(self.order.metadata)

    def hand_over(self) -> None:
        """Send the task to its device, under the same id however often."""
        order, names, stages = self.order, self.agent, self.timing
        stages.delivered()
        fields: dict[str, Any] = {
            "type": "task",
            "status": "continue",
            "user_request": order.request,
            "task_name": order.task_name,
            "session_id": order.session_id,
            "response_id": order.response_id,
            "timestamp": utc_now(),
        }
        if names.agent_name is not None:
            fields["agent_name"] = names.agent_name
        if names.process_name is not None:
            fields["process_name"] = names.process_name
        if names.root_name is not None:
            fields["root_name"] = names.root_name
        if (carried := stages.carried) is not None:
            fields["metadata"] = carried
        self.connection.send_fields(ServerMessageType.TASK, fields)

    def echo(self, message: ClientMessage) -> None:
        """Its device has repeated the task."""
        self.echoed = True
        self.timing.acknowledged(message)

    def begin(self) -> None:
        """Its work has begun. Safe to repeat."""
        self.running = True
        self.timing.began()

    @property
    def has_behind(self) -> bool:
        """Whether something is not stored yet, as far as is known: what is on its way may come back."""
        return self.storing is not None or bool(self.behind)

    def take_behind(self) -> Behind:
        """What is behind, which is stored now."""
        behind, self.behind = self.behind, Behind()
        return behind

    def put_behind(self, behind: Behind) -> None:
        """What was taken could not be stored: it is behind again, before what happened since."""
        self.behind.stamps = {**self.behind.stamps, **behind.stamps}
        self.behind.events = [*behind.events, *self.behind.events][:BEHIND_BOUND]

    def expect(self, response_id: str) -> "asyncio.Future[ClientMessage]":
        """The place of the device's answer to `response_id`, made when it is first asked for.

        Cancelled when the session is stopped.
        """
        future = self.pending.get(response_id)
        if future is None:
            future = self.pending[response_id] = asyncio.get_running_loop().create_future()
        return future

    def answer(self, message: ClientMessage) -> bool:
        """Put an answer of the device where it is expected. False if it is expected nowhere, or came before."""
        self.timing.acknowledged(message)
        future = self.pending.get(message.prev_response_id or "")
        if future is None or future.done():
            return False
        future.set_result(message)
        return True

    def stop(self) -> None:
        """End all that this node does for it: its timer, the planner's task, waiting for answers."""
        self.over = True
        self.timing.left()
        if self.echo_timer is not None:
            self.echo_timer.cancel()
        if self.pending:
            for future in self.pending.values():
                future.cancel()
            self.pending.clear()
        if self.driver is not None and self.driver is not asyncio.current_task():
            self.driver.cancel()
