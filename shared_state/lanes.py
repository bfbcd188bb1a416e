"""The queue before one server: what is asked in one turn of the event loop travels together.

A lane takes calls, sends them in pipelines of at most `MAX_BATCH`, at most `MAX_PIPELINES` of them at a time, and
answers every one, whatever happens: within the time of a call and half of it again, counted from when it was asked.
Lanes are independent: one whose server is silent fills up and fails, while the others go on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import DataError, RedisError

from shared_state.errors import StateError, StateUnavailable
from shared_state.redis_errors import translate
from shared_state.routes import Args

__all__ = ["MAX_PIPELINES", "Call", "Lane"]

log = logging.getLogger(__name__)

# One on its way, one that is gathered behind it: with more, each carries less, and costs as much.
MAX_PIPELINES = 2
MAX_BATCH = 500

Observer = Callable[[float, bool], None]
Execute = Callable[[list[Args]], Awaitable[list[Any]]]
CLOSED = "the connection to Redis is closed"


@dataclass(slots=True, eq=False)
class Call:
    """A command that waits for its reply. `asked_at` is the loop's time, s."""

    args: Args
    future: asyncio.Future[Any]
    asked_at: float

    def answer(self, reply: Any) -> None:
        """Tell whoever waits, unless they gave up. An exception is raised there."""
        if self.future.done():
            return
        if isinstance(reply, Exception):
            self.future.set_exception(reply)
            # Of several calls that fail together the caller may look at one only: that is no loss to report.
            self.future.exception()
        else:
            self.future.set_result(reply)


class Lane:
    """`execute(commands)` sends one pipeline; `on_trouble()` is awaited after one that broke or took too long."""

    def __init__(
        self,
        execute: Execute,
        on_trouble: Callable[[], Awaitable[None]],
        *,
        timeout_s: float,
        observer: Observer | None,
    ) -> None:
        self._execute = execute
        self._on_trouble = on_trouble
        self._timeout_s = timeout_s
        self._observer = observer
        self._waiting: list[Call] = []
        self._pipelines: set[asyncio.Task[None]] = set()
        self._scheduled = False

    @property
    def waiting(self) -> int:
        """How many calls are not yet on their way."""
        return len(self._waiting)

    def put(self, call: Call) -> None:
        """Send it with the next pipeline."""
        self._waiting.append(call)
        self._schedule()

    async def close(self) -> None:
        """Let what is under way finish (within the time of a call); what waits is answered with StateUnavailable."""
        # First those that wait: a pipeline that ends would take them along.
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call.answer(StateUnavailable(CLOSED))
        if self._pipelines:
            _, unfinished = await asyncio.wait(self._pipelines, timeout=self._timeout_s)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def _schedule(self) -> None:
        if not self._scheduled and len(self._pipelines) < MAX_PIPELINES:
            self._scheduled = True
            # It begins in the next turn, and takes along what is asked until then.
            whose: list[asyncio.Task[None]] = []
            task = asyncio.get_running_loop().create_task(self._run(whose))
            whose.append(task)
            self._pipelines.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._pipelines.discard(task)
        if self._waiting:
            self._schedule()

    async def _run(self, whose: list[asyncio.Task[None]]) -> None:
        self._scheduled = False
        if not self._waiting:
            return
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        if self._waiting:
            self._schedule()
        loop = asyncio.get_running_loop()
        started = loop.time()
        # Those that waited long behind a silent server are not to wait as long again.
        bound_s = max(batch[0].asked_at + self._timeout_s - started, self._timeout_s / 2)
        replies = await self._replies([call.args for call in batch], bound_s, whose[0])
        if self._observer is not None:
            self._observer(loop.time() - started, any(isinstance(r, StateUnavailable) for r in replies))
        for call, reply in zip(batch, replies, strict=True):
            call.answer(reply)

    async def _replies(self, commands: list[Args], bound_s: float, task: asyncio.Task[None]) -> list[Any]:
        """A reply or an error for each command, whatever happens: those who wait must be told."""
        failure: StateError
        # What asyncio.timeout does, at a third of its cost: a pipeline often carries a single call.
        limit = _Limit(task, bound_s)
        try:
            replies = await self._execute(commands)
            return [translate(reply) if isinstance(reply, Exception) else reply for reply in replies]
        except (DataError, ValueError):
            # One of them cannot be written, and nothing was sent: each by itself, so that only that one fails.
            if len(commands) > 1:
                return [(await self._replies([command], bound_s, task))[0] for command in commands]
            failure = StateError("a value cannot be written to Redis")
        except (RedisError, OSError, TimeoutError, RuntimeError) as exc:
            # RuntimeError is uvloop's for a broken socket; redis-py does not know it for one, and would hand the same
            # socket out again.
            failure = translate(exc)
            await self._on_trouble()
        except asyncio.CancelledError:
            if limit.passed and task.uncancel() == 0:
                failure = translate(TimeoutError())
                await self._on_trouble()
            else:
                failure = StateUnavailable(CLOSED)
        except Exception:
            log.exception("a pipeline broke")
            failure = StateError("the call to Redis broke")
        finally:
            limit.over()
        return [failure] * len(commands)


class _Limit:
    """Cancels a task unless it is `over` in time; `passed` says that it did."""

    __slots__ = ("_task", "_timer", "passed")

    def __init__(self, task: asyncio.Task[None], seconds: float) -> None:
        self._task = task
        self.passed = False
        self._timer = asyncio.get_running_loop().call_later(seconds, self._pass)

    def over(self) -> None:
        """In time, or dealt with. Safe to repeat."""
        self._timer.cancel()

    def _pass(self) -> None:
        self.passed = True
        self._task.cancel()
