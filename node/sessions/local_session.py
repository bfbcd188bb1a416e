"""A session as the node that runs it holds it in memory: everything here can be lost with the node."""

import asyncio
from dataclasses import dataclass, field

from aip import ClientMessage
from node.gateway.connection import Connection
from node.sessions.orders import TaskOrder
from node.sessions.planners import Planner
from node.sessions.platforms import AgentNames, Platform

__all__ = ["LocalSession"]


@dataclass(slots=True)
class LocalSession:
    """A session under way on a device of this node."""

    order: TaskOrder
    connection: Connection
    # The id of the TASK message: what a device-driven answer refers to.
    task_response_id: str
    planner: Planner
    platform: Platform
    deadline_timer: asyncio.TimerHandle | None = None
    echo_timer: asyncio.TimerHandle | None = None
    driver: asyncio.Task[None] | None = None
    # Commands on the device: response id → where its answer goes.
    pending: dict[str, "asyncio.Future[ClientMessage]"] = field(default_factory=dict)
    echoed: bool = False
    running: bool = False
    over: bool = False
    # A step is stored and its results are not: whoever took the session over now could not know them.
    in_step: bool = False

    @property
    def session_id(self) -> str:
        """Its id in the cluster."""
        return self.order.session_id

    @property
    def agent(self) -> AgentNames:
        """Which tool set of the device serves it."""
        return self.platform.names(self.order.metadata)

    def expect(self, response_id: str) -> "asyncio.Future[ClientMessage]":
        """A place for the device's answer to `response_id`; cancelled when the session is stopped."""
        future: asyncio.Future[ClientMessage] = asyncio.get_running_loop().create_future()
        self.pending[response_id] = future
        return future

    def stop(self) -> None:
        """End all that this node does for it: timers, the planner's task, waiting for answers."""
        self.over = True
        for timer in (self.deadline_timer, self.echo_timer):
            if timer is not None:
                timer.cancel()
        for future in self.pending.values():
            future.cancel()
        self.pending.clear()
        if self.driver is not None and self.driver is not asyncio.current_task():
            self.driver.cancel()
