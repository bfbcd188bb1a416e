"""Background work with an owner: what is spawned or begun is awaited or cancelled at `close`, its failures are logged.

`spawn` makes a task. `begin` is for what is done for every task of a device: it runs at once up to its first wait, and
goes on when what it waits for is done, without a task around it, at less than half of the cost. It must not ask which
task it runs in: no `asyncio.timeout`, no lock of asyncio's.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context, copy_context
from typing import Any

from node.begun import Begun

__all__ = ["Background"]

log = logging.getLogger(__name__)


class Background:
    """A set of work that is under way, kept alive until it ends; `close` ends it all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._errands: set[_Errand] = set()

    def __len__(self) -> int:
        return len(self._tasks) + len(self._errands)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `coroutine`; an exception it raises is logged, once."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def begin(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        """Run `coroutine` now, as far as it need not wait, and the rest in time. Its exceptions are logged, too."""
        context = copy_context()
        context.run(_Errand(coroutine, name, context, self._errands).go_on)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            _log_failure(task.get_name(), exc)

    async def close(self, *, grace_s: float = 0.0) -> None:
        """Wait up to `grace_s` for what runs, then cancel it and wait for its end."""
        for errand in list(self._errands):
            self.spawn(errand.rest(), errand.name)
        if self._tasks and grace_s > 0:
            await asyncio.wait(set(self._tasks), timeout=grace_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Errand:
    """A coroutine that is driven by the futures it waits for, in a context of its own, as a task would have it."""

    __slots__ = ("_context", "_coroutine", "_others", "_waits_for", "name")

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], name: str, context: Context, others: "set[_Errand]"
    ) -> None:
        self._coroutine = coroutine
        self.name = name
        self._context = context
        self._waits_for: asyncio.Future[Any] | None = None
        # Those that are under way: this one, too, while it waits.
        self._others = others

    def go_on(self, _: object = None) -> None:
        """Run to the next wait, or to the end."""
        try:
            waits_for = self._coroutine.send(None)
        except StopIteration:
            self._others.discard(self)
            return
        except asyncio.CancelledError:
            # What it waited for was cancelled: no failure, as for a task.
            self._others.discard(self)
            return
        except BaseException as exc:
            self._others.discard(self)
            _log_failure(self.name, exc)
            if not isinstance(exc, Exception):
                raise
            return
        self._others.add(self)
        if waits_for is None:
            # A bare yield, as `asyncio.sleep(0)` has it: in the next turn.
            waits_for = asyncio.get_running_loop().create_future()
            waits_for.set_result(None)
        # What a future asks of whoever waits for it: to have seen that it is awaited, not just yielded.
        waits_for._asyncio_future_blocking = False
        self._waits_for = waits_for
        waits_for.add_done_callback(self.go_on, context=self._context)

    async def rest(self) -> None:
        """What is left, for a task to do: from here on it can be cancelled."""
        self._others.discard(self)
        waits_for = self._waits_for
        if waits_for is not None:
            waits_for.remove_done_callback(self.go_on)
            waits_for._asyncio_future_blocking = True
            await Begun(self._coroutine.__await__(), waits_for)


def _log_failure(name: str, exc: BaseException) -> None:
    log.error("a background task failed", extra={"task": name}, exc_info=exc)
