"""A session under way on this node: its state machine, and what the runner keeps beside it. Lost with the node."""

import asyncio

from aip_cluster.protocol.features import DEDUPLICATES, NO_ECHO
from node.connections.connection import Connection
from node.sessions.planners import Planner
from node.sessions.session import Device, SessionMachine
from node.sessions.task_timing import TaskTiming
from node.sessions.writer import Unstored

__all__ = ["LiveSession", "device_of"]


class LiveSession:
    """The parts of one session. The runner alone changes them."""

    __slots__ = (
        *("machine", "spec", "session_id", "connection", "planner", "timing", "unstored"),
        *("due_tick", "timer", "planning"),
    )

    def __init__(
        self,
        machine: SessionMachine,
        connection: Connection,
        planner: Planner,
        timing: TaskTiming,
        unstored: Unstored,
    ) -> None:
        self.machine = machine
        self.spec = machine.spec
        self.session_id = machine.spec.session_id
        self.connection = connection
        self.planner = planner
        self.timing = timing
        self.unstored = unstored
        # Its place among the deadlines.
        self.due_tick = 0
        # The one thing that is awaited for a bounded time: the device's echo, or its results.
        self.timer: asyncio.TimerHandle | None = None
        # While the planner is asked.
        self.planning: asyncio.Task[None] | None = None

    @property
    def wants_progress(self) -> bool:
        """Whether the requester is told of every step."""
        return bool(self.spec.owner) and self.spec.metadata.get("progress") is True

    def stop(self) -> None:
        """End what runs for it on this node: timers, and the planner's task unless that asks for it."""
        self.machine.stopped()
        self.unstored.over = True
        self.timing.left()
        if self.timer is not None:
            self.timer.cancel()
        if self.planning is not None and self.planning is not asyncio.current_task():
            self.planning.cancel()


def device_of(connection: Connection, echo_wait_s: float, command_timeout_s: float) -> Device:
    """What a session's machine has to know of the device at the other end of a connection."""
    features = connection.features
    return Device(
        echoes=NO_ECHO not in features and not connection.payload_format and echo_wait_s > 0,
        single_commands=connection.payload_format,
        recognises_repeats=connection.recognises_repeats,
        command_limit_s=None if DEDUPLICATES in features else command_timeout_s,
    )
