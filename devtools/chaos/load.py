"""Users over REST: they dispatch, wait, read and cancel, through nginx and past it, and remember what they were told.

Most dispatches carry an `Idempotency-Key` and are repeated until they are answered, as a careful client does it; the
others are sent once, and what became of them is found out when the run is over. Requests that could not be answered
are no violation by themselves: `outages` measures them.
"""

import asyncio
import random
from typing import Any

import httpx

from aip_cluster.protocol import new_id
from devtools.chaos.cluster import ClusterUnderTest
from devtools.chaos.ledger import Ledger, Outcome, Task
from devtools.chaos.outages import Gauge
from devtools.chaos.tasks import TaskMaker, body_of

__all__ = ["RestLoad"]

REQUEST_S = 12.0
WAIT_S = 3.0
# How long a careful client repeats a dispatch that was not answered.
PATIENCE_S = 15.0
KEYED, DIRECT, CANCELLED = 0.7, 0.25, 0.06
RECENT = 40


class RestLoad:
    """The load: `run` until told to stop. Failures of requests are counted, never raised."""

    def __init__(
        self,
        cluster: ClusterUnderTest,
        devices: list[str],
        maker: TaskMaker,
        dispatching: Gauge,
        rng: random.Random,
    ) -> None:
        self._cluster = cluster
        self._devices = devices
        self._maker = maker
        self._ledger: Ledger = maker.ledger
        self._gauge = dispatching
        self._rng = rng
        self._recent: list[Task] = []

    async def run(self, until: asyncio.Event) -> None:
        """Dispatch at the plan's pace, and read beside it. Returns once every request has been answered or given up."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
        async with (
            httpx.AsyncClient(timeout=REQUEST_S, limits=limits, trust_env=False) as http,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._read_around(http, until), name="reader")
            group.create_task(self._wait_around(http, until), name="waiter")
            while not until.is_set():
                group.create_task(self._dispatch_one(http), name="dispatch")
                await asyncio.sleep(self._rng.expovariate(self._cluster.plan.dispatches_per_s))

    # -- dispatching -----------------------------------------------------------------------------------------------
    def _somewhere(self) -> tuple[str, str]:
        """A base URL to ask, and its name."""
        if self._rng.random() < DIRECT:
            name = self._rng.choice(list(self._cluster.nodes))
            return self._cluster.node_url(name), name
        return self._cluster.front_url, "nginx"

    async def _dispatch_one(self, http: httpx.AsyncClient) -> None:
        key = new_id() if self._rng.random() < KEYED else None
        task = self._maker.make(self._rng.choice(self._devices), "REST", key=key, may_be_planned=True)
        cancelled = self._rng.random() < CANCELLED
        self._ledger.sent(task)
        deadline_s = self._ledger.now_s + PATIENCE_S
        while True:
            retry_after_s = await self._ask_to_dispatch(http, task)
            if retry_after_s is None or key is None or self._ledger.now_s > deadline_s:
                break
            await asyncio.sleep(retry_after_s)
        if task.outcome is Outcome.ACCEPTED:
            self._recent = [*self._recent[1 - RECENT :], task]
            if cancelled:
                await asyncio.sleep(self._rng.uniform(0.0, 0.3))
                await self._cancel(http, task)

    async def _ask_to_dispatch(self, http: httpx.AsyncClient, task: Task) -> float | None:
        """One request. Returns after how many seconds it may be repeated, None when there is an answer."""
        url, where = self._somewhere()
        headers = {"Idempotency-Key": task.key} if task.key else {}
        began_s = self._ledger.now_s
        try:
            answer = await http.post(f"{url}/api/dispatch", json=body_of(task), headers=headers)
        except httpx.HTTPError as exc:
            self._note(where, began_s, served=False, what=type(exc).__name__)
            self._ledger.unanswered(task, where, repr(exc)[:160])
            return 0.3
        self._note(where, began_s, served=answer.status_code < 500, what=str(answer.status_code))
        return self._heed(task, where, answer)

    def _note(self, where: str, began_s: float, *, served: bool, what: str) -> None:
        self._ledger.count(f"dispatch: {what}")
        if where == "nginx":
            self._gauge.note(began_s, self._ledger.now_s, served=served)

    def _heed(self, task: Task, where: str, answer: httpx.Response) -> float | None:
        """What an answer to a dispatch means."""
        wait = answer.headers.get("Retry-After", "")
        retry_after_s = min(float(wait), 2.0) if wait.isdigit() else 0.3
        detail = _detail(answer)
        if answer.status_code == 200:
            self._ledger.accepted(task, answer.json()["session_id"], where)
            return None
        text = f"{answer.status_code} {detail}"
        if answer.status_code in {502, 504} or (answer.status_code == 503 and "is not known" in detail):
            self._ledger.unanswered(task, where, text)
            return retry_after_s
        if task.key and (answer.status_code == 503 or (answer.status_code == 409 and wait)):
            # Nothing was taken, or an earlier request with this key is still under way.
            self._ledger.unanswered(task, where, text)
            return retry_after_s
        # After a request without an answer a refusal may be about the repetition alone.
        (self._ledger.unanswered if task.unanswered_s else self._ledger.refused)(task, where, text)
        return None

    async def _cancel(self, http: httpx.AsyncClient, task: Task) -> None:
        url, where = self._somewhere()
        self._ledger.cancelling(task, where)
        session_id = next(iter(task.sessions))
        try:
            answer = await http.post(f"{url}/api/sessions/{session_id}/cancel")
        except httpx.HTTPError as exc:
            self._ledger.count(f"cancel: {type(exc).__name__}")
            return
        self._ledger.count(f"cancel: {answer.status_code}")
        if answer.status_code == 200:
            state = answer.json()["state"]
            self._ledger.count(f"cancel came to: {state}")

    # -- reading ---------------------------------------------------------------------------------------------------
    async def _read_around(self, http: httpx.AsyncClient, until: asyncio.Event) -> None:
        """Read tasks again and again, on any node: what has ended must stay as it is."""
        while not until.is_set():
            await asyncio.sleep(self._rng.uniform(0.02, 0.12))
            accepted = [t for t in self._recent if t.sessions]
            if accepted:
                await self._read(http, self._rng.choice(accepted))

    async def _wait_around(self, http: httpx.AsyncClient, until: asyncio.Event) -> None:
        """Wait for tasks that were accepted a moment ago."""
        while not until.is_set():
            await asyncio.sleep(self._rng.uniform(0.02, 0.1))
            if self._recent:
                task = self._recent[-1]
                await self._get(http, task, f"/api/task_result/{task.name}?wait={WAIT_S:g}")

    async def _read(self, http: httpx.AsyncClient, task: Task) -> None:
        await self._get(http, task, f"/api/sessions/{next(iter(task.sessions))}")

    async def _get(self, http: httpx.AsyncClient, task: Task, path: str) -> None:
        url, where = self._somewhere()
        asked_s = self._ledger.now_s
        try:
            answer = await http.get(f"{url}{path}")
        except httpx.HTTPError as exc:
            self._ledger.count(f"read: {type(exc).__name__}")
            return
        self._ledger.count(f"read: {answer.status_code}")
        if answer.status_code != 200:
            return
        body: dict[str, Any] = answer.json()
        state = str(body.get("state") or body.get("status"))
        if body.get("session_id", "") in {"", *task.sessions}:
            self._ledger.saw(task, where, state, body.get("result"), body.get("error"), asked_s=asked_s)


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("detail", ""))
    except (ValueError, AttributeError):
        return answer.text[:160]
