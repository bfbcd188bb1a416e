"""A coroutine without a task: driven by the futures that it waits for, at less than half of what a task costs.

It runs at once up to its first wait, in a context of its own, as a task would have it, and goes on when what it waits
for is done. It must not ask which task it runs in: no `asyncio.timeout`, no lock of asyncio's.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any

from node.concurrency.eager import Eager

__all__ = ["EagerTask", "log_failure"]

log = logging.getLogger(__name__)


class EagerTask:
    """One such coroutine. While it waits it is one of `others`, a set of its owner; what it raises is logged."""

    __slots__ = ("_context", "_coroutine", "_others", "_waits_for", "name")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], name: str, others: set[Any]) -> None:
        self._coroutine: Coroutine[Any, Any, Any] | None = coroutine
        self.name = name
        self._context = copy_context()
        self._waits_for: asyncio.Future[Any] | None = None
        self._others = others

    def begin(self) -> None:
        """Run to the first wait, or to the end."""
        self._context.run(self._go_on)

    def cancel(self, msg: str | None = None) -> None:
        """End it where it waits, as a task would be. What has come by now is not taken back: then it goes on."""
        if self._waits_for is not None:
            self._waits_for.cancel(msg)

    async def rest(self) -> None:
        """What is left, for a task to do."""
        self._others.discard(self)
        waits_for, coroutine = self._waits_for, self._coroutine
        if waits_for is not None and coroutine is not None:
            # What it waits for may be done, and `_go_on` on its way already.
            self._coroutine = None
            waits_for.remove_done_callback(self._go_on)
            waits_for._asyncio_future_blocking = True
            await Eager(coroutine.__await__(), waits_for)

    def _go_on(self, _: object = None) -> None:
        """Run to the next wait, or to the end."""
        coroutine, self._waits_for = self._coroutine, None
        if coroutine is None:
            return  # a task does it
        try:
            waits_for = coroutine.send(None)
        except StopIteration:
            self._others.discard(self)
            return
        except asyncio.CancelledError:
            # What it waited for was cancelled: no failure, as for a task.
            self._others.discard(self)
            return
        except BaseException as exc:
            self._others.discard(self)
            log_failure(self.name, exc)
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
        waits_for.add_done_callback(self._go_on, context=self._context)


def log_failure(name: str, exc: BaseException) -> None:
    """Say that what ran in the background failed: nobody awaits it."""
    log.error("a background task failed", extra={"task": name}, exc_info=exc)
