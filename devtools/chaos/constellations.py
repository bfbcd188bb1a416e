"""Orchestrators of a run: one on raw sockets, which sees every acknowledgement and every end, and one with our SDK.

The raw one opens a socket per device, as the protocol has it. A task whose acknowledgement did not come is not sent
again: whether it was taken is found out over REST, when the run is over.
"""

import asyncio
import random
from typing import ClassVar

from aip_cluster.constellation import ConstellationClient, ConstellationError, TaskRefused
from devtools.chaos.ledger import Deed, Ledger, Outcome, Task
from devtools.chaos.tasks import TaskMaker, commands_of
from devtools.chaos.wire import Client, Frame
from devtools.proxy import Proxy

__all__ = ["Orchestrator", "SdkOrchestrator"]

ACKNOWLEDGE_S = 8.0
# How long after a task's deadline the SDK is given up, and the task is looked up over REST.
SDK_SLACK_S = 20.0


class _Link(Client):
    """The raw orchestrator's socket for one device."""

    client_type: ClassVar[str] = "constellation"
    features: ClassVar[tuple[str, ...]] = ("resume",)

    def __init__(self, name: str, device: str, line: Proxy, ledger: Ledger, rng: random.Random) -> None:
        super().__init__(f"{name}@{device}", line, ledger, rng)
        self.device = device
        self._sent: dict[str, Task] = {}
        self._answered: dict[str, asyncio.Event] = {}

    def metadata(self) -> Frame:
        return {"type": "constellation_client", "features": list(self.features), "targeted_device_id": self.device}

    def registration(self) -> Frame:
        return {**super().registration(), "target_id": self.device}

    async def task(self, task: Task, commands: list[Frame]) -> None:
        """Send a task; returns when it was answered, or after a while without an answer."""
        self._sent[task.session_id] = task
        answered = self._answered[task.session_id] = asyncio.Event()
        self.ledger.sent(task)
        frame = self.frame(
            "task",
            status="continue",
            session_id=task.session_id,
            task_name=f"galaxy/chaos/{task.name}",
            target_id=self.device,
            request=f"carry out {task.name}",
            metadata={"commands": commands, "timeout_s": task.timeout_s},
        )
        if not await self.send(frame):
            self.ledger.unanswered(task, self.client_id, "the socket was gone")
            return
        try:
            async with asyncio.timeout(ACKNOWLEDGE_S):
                await answered.wait()
        except TimeoutError:
            self.ledger.unanswered(task, self.client_id, "no acknowledgement")

    def on_frame(self, frame: Frame) -> None:
        task = self._sent.get(frame.get("session_id") or "")
        if task is None:
            return
        if frame["type"] == "heartbeat" and frame.get("status") == "ok":
            self.ledger.accepted(task, task.session_id, self.client_id)
            self.ledger.count("task: acknowledged")
        elif frame["type"] == "error":
            self.ledger.count("task: error")
            # Redis away: it may have been stored all the same.
            unknown = "cannot serve" in (frame.get("error") or "")
            (self.ledger.unanswered if unknown else self.ledger.refused)(task, self.client_id, str(frame.get("error")))
        elif frame["type"] == "task_end":
            self._on_end(task, frame)
        else:
            return
        self._answered[task.session_id].set()

    def _on_end(self, task: Task, frame: Frame) -> None:
        status, error = str(frame["status"]), frame.get("error")
        if task.outcome is Outcome.UNKNOWN and status == "failed" and not self._may_have_run(error):
            self.ledger.count("task: refused")
            self.ledger.refused(task, self.client_id, str(error))
            return
        if task.outcome is Outcome.UNKNOWN:
            # The end says that it was accepted, whatever became of the acknowledgement.
            self.ledger.accepted(task, task.session_id, self.client_id)
        self.ledger.told(task, self.client_id, self.connections, status, frame.get("result"), error)

    @staticmethod
    def _may_have_run(error: str | None) -> bool:
        """Whether an end without an acknowledgement before it is the end of a session, not a refusal."""
        refusals = ("is not connected", "messages waiting", "is running", "too many", "Too many", "sessions in flight")
        return not any(text in (error or "") for text in refusals)


class Orchestrator:
    """`<name>@<device>` for some devices; sends them tasks, one at a time each, at a pace of its own."""

    def __init__(self, name: str, devices: list[str], line: Proxy, maker: TaskMaker, rng: random.Random) -> None:
        self.name = name
        self.line = line
        self._maker = maker
        self._rng = rng
        self.links = [_Link(name, device, line, maker.ledger, rng) for device in devices]

    async def run(self, until: asyncio.Event) -> None:
        """Stay connected for ever; send tasks until `until` is set."""
        async with asyncio.TaskGroup() as group:
            for link in self.links:
                group.create_task(link.run(), name=f"link {link.client_id}")
                group.create_task(self._send_tasks(link, until), name=f"tasks {link.client_id}")

    async def _send_tasks(self, link: _Link, until: asyncio.Event) -> None:
        while not until.is_set():
            await asyncio.sleep(self._rng.uniform(0.5, 2.0))
            if not link.connected or until.is_set():
                continue
            task = self._maker.make(link.device, f"AIP {self.name}", owner=link.client_id)
            task.session_id = f"{self.name}@{task.name}"
            await link.task(task, commands_of(task))


class SdkOrchestrator:
    """Tasks over `aip_cluster.constellation`, one after another, each on a device drawn anew."""

    def __init__(self, name: str, devices: list[str], line: Proxy, maker: TaskMaker, rng: random.Random) -> None:
        self.name = name
        self.line = line
        self._devices = devices
        self._maker = maker
        self._rng = rng

    async def run(self, until: asyncio.Event) -> None:
        """Run tasks until `until` is set, then wait for those under way."""
        url = f"ws://127.0.0.1:{self.line.port}/ws"
        async with ConstellationClient(url, name=self.name) as client, asyncio.TaskGroup() as group:
            while not until.is_set():
                await asyncio.sleep(self._rng.uniform(0.4, 1.2))
                device = self._rng.choice(self._devices)
                task = self._maker.make(device, f"SDK {self.name}", owner=f"{self.name}@{device}")
                task.session_id = f"{self.name}@{task.name}"
                group.create_task(self._run_one(client, task), name=f"sdk {task.name}")
        for device in self._devices:
            self._maker.ledger.note(Deed.DISCONNECTED, f"{self.name}@{device}", text="the client was closed")

    async def _run_one(self, client: ConstellationClient, task: Task) -> None:
        ledger = self._maker.ledger
        ledger.sent(task)
        try:
            async with asyncio.timeout(task.timeout_s + SDK_SLACK_S):
                result = await client.run(
                    task.device,
                    f"carry out {task.name}",
                    commands=commands_of(task),
                    task_name=task.name,
                    timeout_s=task.timeout_s,
                    session_id=task.session_id,
                )
        except TaskRefused as exc:
            # It may be the answer to a task that was stored as Redis went away.
            ledger.unanswered(task, self.name, f"refused: {exc}")
        except (ConstellationError, TimeoutError) as exc:
            ledger.unanswered(task, self.name, repr(exc)[:200])
        else:
            # A refusal comes as a failed task too: what counts is what REST says afterwards.
            ledger.note(Deed.TOLD, self.name, task=task.name, text=f"{result.status} {result.error or ''}")
            if result.succeeded:
                ledger.accepted(task, task.session_id, self.name)
                ledger.told(task, self.name, 0, result.status, result.result, result.error)
