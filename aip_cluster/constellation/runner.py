"""Runs a plan on a cluster: asks the scheduler what to do, does it, and tells the scheduler what came of it.

The devices are listed before the run, and again whenever a task is ready and the list is older than `DEVICES_S`: a
device that came is used, one that left is not. Cancelling a run ends its sessions in the cluster, not only here.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from aip_cluster.constellation.attempt import Order, carry_out
from aip_cluster.constellation.client import ConstellationClient
from aip_cluster.constellation.devices import Device, device_problems
from aip_cluster.constellation.errors import ConnectionLost, PlanError, RequestFailed
from aip_cluster.constellation.plan import Plan, check
from aip_cluster.constellation.records import Ending, Outcome, Start, TaskRecord, TaskState, session_id_of
from aip_cluster.constellation.report import Report
from aip_cluster.constellation.scheduler import Scheduler
from aip_cluster.constellation.template import TemplateError, render, render_text
from aip_cluster.protocol import new_id, utc_now

__all__ = ["Observer", "PlanRun", "run_plan"]

logger = logging.getLogger(__name__)

DEVICES_S = 2.0
LISTING_S = 5.0

# Called after each change of a task, with the task that changed. It must not block, and must not raise.
Observer = Callable[[TaskRecord], None]


async def run_plan(client: ConstellationClient, plan: Plan, *, observe: Observer | None = None) -> Report:
    """Run a plan to its end and say how every task ended.

    Raises PlanError before anything is sent, ConnectionLost or RequestFailed if the devices cannot be listed then. A
    task that fails is in the report. Cancelling ends what is under way on the devices before it takes effect.
    """
    return await PlanRun(client, plan, observe=observe).run()


class PlanRun:
    """One run of one plan. Raises PlanError for a plan that cannot be run on any cluster."""

    def __init__(self, client: ConstellationClient, plan: Plan, *, observe: Observer | None = None) -> None:
        self.plan = check(plan)
        self.run_id = new_id()
        self._client = client
        self._observe = observe
        self._scheduler: Scheduler | None = None
        self._stop = asyncio.Event()
        self._pending: dict[asyncio.Task[Outcome], Start] = {}
        self._states: dict[str, tuple[Any, int]] = {}
        self._began = 0.0
        self._listed = 0.0

    def cancel(self) -> None:
        """End the run: nothing more is started, and what is under way is cancelled on its devices. Safe to repeat."""
        self._stop.set()
        if self._scheduler is not None:
            self._scheduler.cancel(self._now_s())
            self._tell()

    def abandon(self) -> None:
        """Let go of what is under way without waiting for the cluster: it may go on there. `run` then raises
        CancelledError."""
        for attempt in self._pending:
            attempt.cancel()

    async def run(self) -> Report:
        """As `run_plan`. May be called once."""
        devices = [Device.of(listed) for listed in await self._client.devices()]
        problems = device_problems(self.plan, devices)
        if problems:
            raise PlanError(problems)
        self._began = self._listed = time.monotonic()
        began_at = utc_now()
        self._scheduler = Scheduler(self.plan, devices)
        try:
            await self._drive(self._scheduler)
        except BaseException:
            self.cancel()
            # Bounded, since the cancelling of every attempt is.
            await asyncio.gather(*self._pending, return_exceptions=True)
            raise
        return Report.of(self.plan, self._scheduler, run_id=self.run_id, began_at=began_at, duration_s=self._now_s())

    async def _drive(self, scheduler: Scheduler) -> None:
        if self._stop.is_set():
            scheduler.cancel(0.0)
        stopping = asyncio.create_task(self._stop.wait())
        try:
            while True:
                if scheduler.wants_devices and time.monotonic() - self._listed >= DEVICES_S:
                    await self._list_devices(scheduler)
                for start in scheduler.advance(self._now_s()):
                    attempt = asyncio.create_task(self._attempt(scheduler, start), name=f"task {start.task_id}")
                    self._pending[attempt] = start
                self._tell()
                if scheduler.done:
                    return
                await asyncio.wait(
                    {*self._pending, *(() if stopping.done() else (stopping,))},
                    timeout=self._patience_s(scheduler),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                self._collect(scheduler)
        finally:
            stopping.cancel()

    def _collect(self, scheduler: Scheduler) -> None:
        for attempt in [attempt for attempt in self._pending if attempt.done()]:
            start = self._pending.pop(attempt)
            scheduler.finish(start.task_id, start.attempt, attempt.result(), self._now_s())

    def _patience_s(self, scheduler: Scheduler) -> float | None:
        wake_s = scheduler.wake_s()
        times = [] if wake_s is None else [max(0.0, wake_s - self._now_s())]
        if scheduler.wants_devices:
            times.append(max(0.0, self._listed + DEVICES_S - time.monotonic()))
        return min(times, default=None)

    async def _list_devices(self, scheduler: Scheduler) -> None:
        try:
            async with asyncio.timeout(LISTING_S):
                scheduler.see_devices([Device.of(listed) for listed in await self._client.devices()])
        except (ConnectionLost, RequestFailed, TimeoutError) as exc:
            # The devices may be there all the same: those known so far are kept.
            logger.warning("the devices cannot be listed: %s", str(exc) or type(exc).__name__)
        self._listed = time.monotonic()

    async def _attempt(self, scheduler: Scheduler, start: Start) -> Outcome:
        task = scheduler.records[start.task_id].task
        done = {name: r.result for name, r in scheduler.records.items() if r.state is TaskState.COMPLETED}
        scope: dict[str, dict[str, Any]] = {
            "tasks": {name: {"result": result} for name, result in done.items()},
            "vars": self.plan.vars,
        }
        try:
            request = render_text(task.request, scope)
            commands = None
            if task.commands is not None:
                commands = [
                    {**command.model_dump(), "parameters": render(command.parameters or {}, scope)}
                    for command in task.commands
                ]
        except TemplateError as exc:
            return Outcome(Ending.FAILED, error=f"was not sent: {exc}")
        order = Order(
            device_id=start.device_id,
            session_id=session_id_of(self.run_id, start.task_id, start.attempt),
            task_name=f"{self.run_id}/{start.task_id}/{start.attempt}",
            request=request,
            commands=commands,
            planner=task.planner,
            metadata=task.metadata or None,
            timeout_s=task.timeout_s,
        )
        return await carry_out(self._client, order, self._stop)

    def _tell(self) -> None:
        """Tell the observer which tasks have changed since it was told last."""
        if self._scheduler is None or self._observe is None:
            return
        for name, record in self._scheduler.records.items():
            seen = (record.state, len(record.attempts))
            if self._states.get(name) != seen:
                self._states[name] = seen
                self._observe(record)

    def _now_s(self) -> float:
        return time.monotonic() - self._began
