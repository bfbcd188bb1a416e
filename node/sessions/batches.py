"""Works a batch off: at most `window` of its tasks under way at a time, each dispatched like any other.

The node that took the batch does it, in the background. Should it die, what was sent goes on and is readable; what was
not is missing, and the batch says so.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from aip_cluster.protocol import new_id
from aip_cluster.protocol.ids import now_ms
from node.concurrency.background import Background
from node.sessions.dispatching import Attempt, Dispatcher
from node.sessions.planners import PlannerRefused
from node.sessions.service import SessionService
from node.sessions.task_request import NewTask
from shared_state import State
from shared_state.batches import Batch, BatchItem
from shared_state.errors import NotRegistered, StateError, StateUnavailable, TooManySessions
from shared_state.sessions import TERMINAL, Session

__all__ = ["BatchRunner", "BatchTask", "TooManyBatches"]

log = logging.getLogger(__name__)

BATCHES_BOUND = 100
WAIT_S = 60.0
RETRY_S = 1.0


class TooManyBatches(Exception):
    """The node works off as many batches as it may."""


class BatchTask(NamedTuple):
    """A task of a batch. `missing` says why, where it is known already that it cannot be dispatched."""

    task: NewTask
    missing: str | None = None


class BatchRunner:
    """The batches that this node works off."""

    def __init__(
        self,
        state: State,
        dispatcher: Dispatcher,
        service: SessionService,
        background: Background,
        node_id: str,
    ) -> None:
        self._state = state
        self._dispatcher = dispatcher
        self._service = service
        self._background = background
        self._node_id = node_id
        self._running = 0

    async def start(self, tasks: Sequence[BatchTask], *, window: int) -> Batch:
        """Store a batch and begin with it. Raises TooManyBatches or StateUnavailable."""
        if self._running >= BATCHES_BOUND:
            raise TooManyBatches(f"This node works off {BATCHES_BOUND} batches already")
        items = [BatchItem(t.task.client_id, t.task.task_name or None, error=t.missing) for t in tasks]
        batch = Batch(new_id(), self._node_id, now_ms(), window, items)
        longest_s = max((t.task.timeout_s + (t.task.queue_for_s or 0) for t in tasks), default=0)
        await self._state.batches.create(batch, longest_s=longest_s)
        self._running += 1
        self._background.spawn(self._work(batch, tasks), "batch")
        return batch

    async def _work(self, batch: Batch, tasks: Sequence[BatchTask]) -> None:
        window = asyncio.Semaphore(batch.window)

        async def one(number: int) -> None:
            try:
                await self._one(batch, number, tasks[number])
            finally:
                window.release()

        running: set[asyncio.Task[None]] = set()
        try:
            for number, task in enumerate(tasks):
                if task.missing is not None:
                    continue
                # Taken before the task exists: as many tasks as the window is wide, not as the batch is long.
                await window.acquire()
                started = asyncio.create_task(one(number), name="batch-item")
                running.add(started)
                started.add_done_callback(running.discard)
            await asyncio.gather(*running)
        finally:
            self._running -= 1
            for left in running:
                left.cancel()

    async def _one(self, batch: Batch, number: int, task: BatchTask) -> None:
        item = batch.items[number]
        try:
            session = await self._dispatch(task.task)
        except NotRegistered:
            await self._note(batch, number, replace(item, error="Client not online"))
            return
        except (PlannerRefused, StateError) as exc:
            await self._note(batch, number, replace(item, error=str(exc)))
            return
        await self._note(batch, number, replace(item, session_id=session.session_id, task_name=session.task_name))
        left: Session | None = session
        while left is not None and left.state not in TERMINAL and not self._service.stopping:
            try:
                left = await self._service.wait(left, WAIT_S)
            except StateError:
                await asyncio.sleep(RETRY_S)

    async def _dispatch(self, task: NewTask) -> Session:
        attempt = Attempt.fresh(task.client_id)
        while True:
            try:
                return await self._dispatcher.dispatch(task, attempt)
            except (StateUnavailable, TooManySessions):
                # Under the same ids, so that a task that was sent after all is not sent twice. A device that is busy
                # is not a reason to leave it out: its sessions end, and each has a deadline.
                if self._service.stopping:
                    raise
                await asyncio.sleep(RETRY_S)

    async def _note(self, batch: Batch, number: int, item: BatchItem) -> None:
        try:
            await self._state.batches.note(batch.batch_id, number, item)
        except StateError as exc:
            log.warning("an item of a batch was not noted", extra={"batch_id": batch.batch_id, "reason": str(exc)})
