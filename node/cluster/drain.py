"""Emptying a node without anybody noticing: the drain that comes before a stop, or before maintenance.

From the first moment the node is not ready, refuses new sockets, and lets go of requests that only wait; everything
else it goes on serving. Its sockets are asked to move (close 1012) so many per second, idle ones first, that those who
come back do not arrive elsewhere as a herd. A device that would not recognise a command sent twice keeps its socket
until the step under way is answered, and is given no further one; the rest of its session goes on where it comes back.
A client that waits for the end of a session that it asked for, and could not ask for it again over another socket,
keeps its socket until it is told of that end (UFO's orchestrator fails a task when its socket closes);
what it asks for meanwhile is served. At the deadline whoever is left is asked to move all the same.

A drain needs no Redis: where it is away, clients move, and what they held is settled once it is back. Nothing here
ends the process; `begin` may be repeated, `end` takes it back.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from aip_cluster.protocol.features import DEDUPLICATES, RESUME
from aip_cluster.protocol.ids import now_ms
from node.connections.connection import Connection
from node.connections.hub import Hub
from node.serving.close_codes import Close
from node.sessions.runner import Runner
from node.telemetry.metrics import Metrics

__all__ = ["DrainState", "Drainer"]

log = logging.getLogger(__name__)

TICK_S = 0.1
# Of the deadline: within this share everybody has had their turn, the rest is for those who are waited for.
TURNS_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class DrainState:
    """How a drain stands. `waiting`: sockets whose turn has come, and whose device is in the middle of a step, or whose
    client waits for the end of a session."""

    draining: bool
    done: bool = False
    connections: int = 0
    moved: int = 0
    waiting: int = 0
    rate_per_s: float | None = None
    seconds_left: float | None = None
    began_ms: int | None = None


class Drainer:
    """The drain of one node. `let_go` is called when one begins, `take_again` when it is taken back."""

    def __init__(
        self,
        hub: Hub,
        runner: Runner,
        metrics: Metrics,
        *,
        rate_per_s: float,
        deadline_s: float,
        let_go: Callable[[], None],
        take_again: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._runner = runner
        self._metrics = metrics
        self._default_rate_per_s = rate_per_s
        self._default_deadline_s = deadline_s
        self._let_go = let_go
        self._take_again = take_again
        self._task: asyncio.Task[None] | None = None
        self._rate_per_s = 0.0
        self._began = self._turns_until = self._deadline = 0.0
        self._began_ms = 0
        self._moved = 0
        # Begun because the process is to end: not to be taken back.
        self.final = False

    @property
    def active(self) -> bool:
        """Whether the node is draining, or drained."""
        return self._task is not None

    @property
    def state(self) -> DrainState:
        """How it stands now."""
        if self._task is None:
            return DrainState(draining=False, connections=len(self._hub))
        return DrainState(
            draining=True,
            done=self._task.done(),
            connections=len(self._hub),
            moved=self._moved,
            waiting=sum(c.held and c.closing is None for c in self._hub),
            rate_per_s=self._rate_per_s,
            seconds_left=0.0 if self._task.done() else round(max(0.0, self._deadline - time.monotonic()), 3),
            began_ms=self._began_ms,
        )

    def begin(self, *, rate_per_s: float | None = None, deadline_s: float | None = None) -> None:
        """Begin to drain. Where one is under way, it can only become faster, and end sooner."""
        now = time.monotonic()
        rate_per_s = rate_per_s or self._default_rate_per_s
        deadline_s = self._default_deadline_s if deadline_s is None else deadline_s
        if self._task is not None:
            self._rate_per_s = max(self._rate_per_s, rate_per_s)
            self._deadline = min(self._deadline, now + deadline_s)
            self._turns_until = min(self._turns_until, now + deadline_s * TURNS_SHARE)
            return
        self._rate_per_s, self._moved, self._began, self._began_ms = rate_per_s, 0, now, now_ms()
        self._deadline, self._turns_until = now + deadline_s, now + deadline_s * TURNS_SHARE
        log.info("drain started", extra={"sockets": len(self._hub), "rate_per_s": rate_per_s, "deadline_s": deadline_s})
        self._metrics.draining.set(1)
        self._let_go()
        self._task = asyncio.get_running_loop().create_task(self._drain(), name="drain")

    def hurry(self) -> None:
        """The deadline is now."""
        self._deadline = min(self._deadline, time.monotonic())

    async def wait(self) -> None:
        """Wait until a drain that has begun is over. Cancelling is safe: the drain goes on."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def end(self) -> None:
        """Take the drain back: who is still here stays, and the node takes clients again. Safe to repeat."""
        if self._task is None:
            return
        await self.close()
        self._task = None
        for connection in self._hub:
            connection.release()
        self._metrics.draining.set(0)
        self._take_again()
        log.info("drain cancelled", extra={"moved": self._moved, "sockets": len(self._hub)})

    async def close(self) -> None:
        """Stop asking sockets to move. Safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # -- the drain -------------------------------------------------------------------------------------------------
    async def _drain(self) -> None:
        allowance = 1.0
        while len(self._hub) and time.monotonic() < self._deadline:
            allowance = self._give_turns(allowance)
            for connection in self._hub:
                if connection.held and not self._must_wait(connection):
                    self._move(connection)
            await asyncio.sleep(TICK_S)
            # Whatever was not used is not saved up: a pause must not end in a burst.
            allowance = min(allowance, 1.0) + self._pace_per_s() * TICK_S
        took_s = time.monotonic() - self._began
        late = [c for c in self._hub if c.closing is None]
        if late:
            self._metrics.drain_deadlines_exceeded.inc()
            log.warning("sockets remained at the drain deadline", extra={"sockets": len(late)})
        for connection in late:
            self._move(connection)
        self._metrics.drain_seconds.observe(took_s)
        log.info("drain finished", extra={"moved": self._moved, "seconds": round(took_s, 3)})

    def _give_turns(self, allowance: float) -> float:
        """Hold as many sockets as the allowance is for, idle ones first. Returns what is left of it."""
        if allowance < 1:
            return allowance
        staying = [c for c in self._hub if not c.held and c.closing is None]
        busy = [c for c in staying if self._runner.has_session(c)]
        idle = [c for c in staying if not self._runner.has_session(c)] if busy else staying
        for connection in [*idle, *busy][: int(allowance)]:
            connection.hold()
            allowance -= 1
        return allowance

    def _pace_per_s(self) -> float:
        """Sockets per second: as asked for, or faster where that would outlast the deadline."""
        staying = sum(not c.held and c.closing is None for c in self._hub)
        left_s = max(self._turns_until - time.monotonic(), TICK_S)
        return max(self._rate_per_s, staying / left_s)

    def _must_wait(self, connection: Connection) -> bool:
        if connection.is_device:
            return DEDUPLICATES not in connection.features and self._runner.has_step_under_way(connection)
        return RESUME not in connection.features and connection.awaits_ends

    def _move(self, connection: Connection) -> None:
        if connection.closing is None:
            connection.close(Close.RESTARTING)
            self._moved += 1
            self._metrics.drain_moved.inc()
