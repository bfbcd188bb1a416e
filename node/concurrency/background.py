"""Background work with an owner: what is spawned or begun is awaited or cancelled at `close`, its failures are logged.

`spawn` makes a task. `begin` is for what is done for every task of a device: it runs at once up to its first wait, and
goes on without a task around it (see `node.concurrency.eager_task`, also for what it must not do).
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from node.concurrency.eager_task import EagerTask, log_failure

__all__ = ["Background"]


class Background:
    """A set of work that is under way, kept alive until it ends; `close` ends it all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._errands: set[EagerTask] = set()

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
        EagerTask(coroutine, name, self._errands).begin()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log_failure(task.get_name(), exc)

    async def close(self, *, grace_s: float = 0.0) -> None:
        """Wait up to `grace_s` for what runs, then cancel it and wait for its end."""
        for errand in list(self._errands):
            self.spawn(errand.rest(), errand.name)
        if self._tasks and grace_s > 0:
            await asyncio.wait(set(self._tasks), timeout=grace_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
