"""The queue before one server: what is asked in one turn of the event loop travels together.

A lane takes calls, sends them in pipelines of at most `MAX_BATCH`, at most `MAX_PIPELINES` of them at a time, and
answers every one, whatever happens: within the time of a call and half of it again, counted from when it was asked.
Lanes are independent: one whose server is silent fills up and fails, while the others go on.

A pipeline is written at once, and answered where its replies are read: no task, and no timer of its own. Only what
needs more than that (a socket to be opened, replicas to be waited for, a server that breaks or sends calls elsewhere)
gets a task that does it with care.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import DataError, RedisError

from shared_state.errors import StateError, StateUnavailable
from shared_state.redis import Args, Attempt, Line, Outcome, Route, Server, shaped
from shared_state.redis.errors import translate

__all__ = ["MAX_PIPELINES", "MAX_WAITING", "Pipeline"]

log = logging.getLogger(__name__)

# One on its way, one that is gathered behind it: with more, each carries less, and costs as much.
MAX_PIPELINES = 2
MAX_BATCH = 500
MAX_WAITING = 10_000

Observer = Callable[[float, bool], None]
Execute = Callable[[list[Args], Attempt | None], Awaitable[list[Any]]]
Future = asyncio.Future[Any]
CLOSED = "the connection to Redis is closed"


class Pipeline:
    """The calls that `route` knows by `name`.

    `execute(commands, attempt)` runs a pipeline with care. With `at_once`, what can be sent without it is, and comes to
    it as an attempt only if something went wrong.
    """

    def __init__(
        self,
        route: Route,
        name: str,
        execute: Execute,
        *,
        at_once: bool,
        timeout_s: float,
        observer: Observer | None,
    ) -> None:
        self.route = route
        self.execute = execute
        self._name = name
        self._at_once = at_once
        self._timeout_s = timeout_s
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self._commands: list[Args] = []
        self._futures: list[Future] = []
        # When the first of those that wait was asked, s (of the loop's clock).
        self._asked_at = 0.0
        self._under_way: set[_Pipeline] = set()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._all_ended = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many calls are not yet on their way."""
        return len(self._futures)

    def refuse(self, why: str) -> Future:
        """An answer for a call that is not taken."""
        future = self._loop.create_future()
        _answer(future, StateUnavailable(why))
        return future

    def put(self, args: Args) -> Future:
        """Send a command with the next pipeline; the future will hold its reply, or StateError.

        What would be the 10,001st that waits is refused with StateUnavailable.
        """
        futures = self._futures
        if len(futures) >= MAX_WAITING:
            return self.refuse("too many requests are waiting for Redis")
        # Of the loop that is kept: on Python 3.11 whoever asks for the running one asks the system for its process id.
        future = self._loop.create_future()
        if not futures:
            self._asked_at = self.time()
        self._commands.append(args)
        futures.append(future)
        if not self._scheduled:
            self._schedule()
        return future

    async def close(self) -> None:
        """Let what is under way finish (within the time of a call); what waits is answered with StateUnavailable."""
        # First those that wait: a pipeline that ends would take them along.
        waiting, self._futures, self._commands = self._futures, [], []
        for future in waiting:
            _answer(future, StateUnavailable(CLOSED))
        if self._under_way:
            self._all_ended.clear()
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._all_ended.wait()
            except TimeoutError:
                tasks = [pipeline.give_up() for pipeline in self._under_way.copy()]
                await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()

    # -- from turn to turn ---------------------------------------------------------------------------------------------
    def _schedule(self) -> None:
        if len(self._under_way) < MAX_PIPELINES:
            self._scheduled = True
            # At the end of this turn, or in the next: it takes along what is asked until then.
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        if not self._futures:
            return
        commands, self._commands = self._commands[:MAX_BATCH], self._commands[MAX_BATCH:]
        futures, self._futures = self._futures[:MAX_BATCH], self._futures[MAX_BATCH:]
        now = self.time()
        # Those that waited long behind a silent server are not to wait as long again.
        deadline = max(self._asked_at + self._timeout_s, now + self._timeout_s / 2)
        pipeline = _Pipeline(self, commands, futures, now, deadline)
        self._under_way.add(pipeline)
        if self._futures:
            self._schedule()
        pipeline.send(self.route.server(self._name) if self._at_once else None)
        if self._timer is None and pipeline.line is not None:
            self._timer = self._loop.call_at(deadline, self._expire)

    def ended(self, pipeline: "_Pipeline", *, failed: bool) -> None:
        """A pipeline has told its calls: there may be room for the next."""
        self._under_way.discard(pipeline)
        if self._observer is not None:
            self._observer(self.time() - pipeline.started, failed)
        if self._futures and not self._scheduled:
            self._schedule()
        elif not self._under_way:
            self._all_ended.set()

    def doubt(self) -> None:
        """A pipeline broke, or took too long."""
        self.route.doubt(self._name)

    def _expire(self) -> None:
        self._timer = None
        now = self.time()
        for pipeline in [p for p in self._under_way if p.deadline <= now]:
            pipeline.expire()
        # Those that are taken care of have a bound of their own.
        deadlines = [p.deadline for p in self._under_way if p.line is not None]
        if deadlines and self._timer is None:
            self._timer = self._loop.call_at(min(deadlines), self._expire)


class _Pipeline:
    """Calls that travel together, until each of them is answered."""

    __slots__ = ("_commands", "_futures", "_lane", "_server", "_task", "deadline", "line", "started")

    def __init__(
        self, lane: Pipeline, commands: list[Args], futures: list[Future], now: float, deadline: float
    ) -> None:
        self._lane = lane
        self._commands = commands
        self._futures = futures
        self._task: asyncio.Task[None] | None = None
        self.started = now
        self.deadline = deadline
        # The socket that it was written into, while its replies are awaited there.
        self.line: Line | None = None
        self._server: Server | None = None

    def send(self, server: Server | None) -> None:
        """At once if `server` has an idle socket, else with care."""
        if server is not None:
            # One of them may be such that it cannot be written: which, is found out with care.
            with contextlib.suppress(DataError, ValueError):
                self.line = server.send(self._commands, self._arrived)
                self._server = server
        if self.line is None:
            self._take_care(None)

    def expire(self) -> None:
        """The time for replies to arrive is over."""
        if self._leave():
            self._lane.doubt()
            self._tell([translate(TimeoutError())] * len(self._commands))

    def give_up(self) -> asyncio.Task[None] | None:
        """Tell that it is over; returns what the caller has to wait for, if anything."""
        if self._leave():
            self._tell([StateUnavailable(CLOSED)] * len(self._commands))
        elif self._task is not None:
            self._task.cancel()
        return self._task

    def _leave(self) -> bool:
        line, self.line = self.line, None
        if line is not None:
            line.end(TimeoutError())
        return line is not None

    def _arrived(self, outcome: Outcome) -> None:
        if self.line is None or self._server is None:
            return  # left before
        self.line = None
        seconds = self._lane.time() - self.started
        if isinstance(outcome, list) and seconds <= self._lane.route.suspicious_after_s:
            replies = list(map(shaped, self._commands, outcome))
            if not any(isinstance(reply, Exception) for reply in replies):
                for future, reply in zip(self._futures, replies, strict=True):
                    if not future.done():
                        future.set_result(reply)
                self._lane.ended(self, failed=False)
                return
        self._take_care(Attempt(self._server, outcome, seconds))

    def _tell(self, replies: list[Any]) -> None:
        failed = False
        for future, reply in zip(self._futures, replies, strict=True):
            _answer(future, reply)
            failed = failed or isinstance(reply, StateUnavailable)
        self._lane.ended(self, failed=failed)

    # -- with care -----------------------------------------------------------------------------------------------------
    def _take_care(self, attempt: Attempt | None) -> None:
        self._task = asyncio.create_task(self._carefully(attempt), name="redis-pipeline")

    async def _carefully(self, attempt: Attempt | None) -> None:
        self._tell(await self._replies(self._commands, attempt))

    async def _replies(self, commands: list[Args], attempt: Attempt | None) -> list[Any]:
        """A reply or an error for each command, whatever happens: those who wait must be told."""
        failure: StateError
        try:
            async with asyncio.timeout_at(self.deadline):
                replies = await self._lane.execute(commands, attempt)
            return [translate(reply) if isinstance(reply, Exception) else reply for reply in replies]
        except (DataError, ValueError):
            # One of them cannot be written, and nothing was sent: each by itself, so that only that one fails.
            if len(commands) > 1:
                return [(await self._replies([command], None))[0] for command in commands]
            failure = StateError("a value cannot be written to Redis")
        except (RedisError, OSError, TimeoutError, RuntimeError) as exc:
            # RuntimeError is uvloop's for a broken socket.
            failure = translate(exc)
            self._lane.doubt()
        except asyncio.CancelledError:
            failure = StateUnavailable(CLOSED)
        except Exception:
            log.exception("a pipeline failed")
            failure = StateError("the call to Redis failed")
        return [failure] * len(commands)


def _answer(future: Future, reply: Any) -> None:
    """Tell whoever waits, unless they gave up. An exception is raised there."""
    if future.done():
        return
    if isinstance(reply, Exception):
        future.set_exception(reply)
        # Of several calls that fail together the caller may look at one only: that is no loss to report.
        future.exception()
    else:
        future.set_result(reply)
