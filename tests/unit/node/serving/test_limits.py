"""How many requests are worked on, how many wait, how many sessions there may be; and that probes are never refused."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator

import httpx
import pytest

from node.api.middleware import OPEN_PATHS
from node.app import Node
from node.concurrency.background import Background
from node.serving.request_limits import Limits
from node.sessions.node_load import NodeLoad
from shared_state import State
from shared_state.errors import StateUnavailable, TooManySessions
from shared_state.nodes import NodeInfo, Nodes
from tests.support.asgi import Device, Socket, rest
from tests.support.clock import Clock
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode

TASK = {"client_id": "device-1", "request": "do it", "commands": [{"tool_name": "t"}]}


def _refused(node: Node, reason: str) -> float:
    return node.metrics.registry.get_sample_value("aip_refusals_total", {"reason": reason}) or 0.0


async def test_requests_beyond_the_bound_are_told_to_come_back_and_probes_are_not(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await make_node(max_requests=2)
    may_go_on, under_way = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(*_: object) -> list[str]:
        under_way.release()
        await may_go_on.wait()
        return []

    monkeypatch.setattr(node.state.clients, "online_ids", slow)
    async with rest(node) as api:
        first = [asyncio.create_task(api.get("/api/clients")) for _ in range(2)]
        for _ in first:
            await under_way.acquire()
        third = await api.get("/api/nodes")
        assert third.status_code == 503
        assert 1 <= int(third.headers["Retry-After"]) <= 3
        assert "X-Request-ID" in third.headers
        for path in sorted(OPEN_PATHS - {"/api/health"}):
            assert (await api.get(path)).status_code in {200, 307}, path
        may_go_on.set()
        assert [(await answer).status_code for answer in first] == [200, 200]
        assert (await api.get("/api/nodes")).status_code == 200
    assert _refused(node, "requests") == 1


def _are_waiting(limits: Limits, count: int) -> bool:
    return limits.waiting == count


async def test_requests_that_wait_leave_their_place_to_those_that_do_not(make_node: MakeNode) -> None:
    node = await make_node(max_requests=1, max_waiters=2)
    async with Device(node), rest(node) as api:
        name = (await api.post("/api/dispatch", json=TASK)).json()["task_name"]

        def waiting() -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(api.get(f"/api/task_result/{name}", params={"wait": "60"}))

        limits = node.api.limits
        waiters = []
        for count in (1, 2):
            waiters.append(waiting())
            await until(functools.partial(_are_waiting, limits, count), "it waits")
        assert limits.working == 0
        third = await api.get(f"/api/task_result/{name}", params={"wait": "60"})
        assert third.status_code == 503
        assert "wait" in third.json()["detail"]
        assert (await api.get(f"/api/task_result/{name}")).json() == {"status": "pending"}, (
            "who does not wait is served"
        )
        session_id = (await api.get("/api/sessions")).json()["sessions"][0]["session_id"]
        await api.post(f"/api/sessions/{session_id}/cancel")
        assert [(await w).json()["state"] for w in waiters] == ["cancelled"] * 2
        assert (limits.working, limits.waiting) == (0, 0)
    assert _refused(node, "waiters") == 1


async def test_a_body_that_does_not_come_is_not_waited_for(make_node: MakeNode) -> None:
    node = await make_node(body_timeout_s=0.05)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with rest(node) as api:
        headers = {"Content-Type": "application/json"}
        answer = await api.post("/api/dispatch", content=never(), headers=headers)
        assert answer.status_code == 408
        assert answer.headers["Connection"] == "close"
        assert node.api.limits.working == 0


async def test_a_device_takes_only_so_many_sessions_over_rest(make_node: MakeNode) -> None:
    node = await make_node(max_sessions_per_device=2)
    async with Device(node), Device(node, "device-2"), rest(node) as api:
        accepted = [await api.post("/api/dispatch", json=TASK) for _ in range(2)]
        third = await api.post("/api/dispatch", json=TASK | {"task_name": "third"})
        assert (third.status_code, third.headers["Retry-After"]) == (429, "1")
        assert third.json()["detail"].endswith("(max_sessions_per_device)")
        assert (await api.post("/api/dispatch", json=TASK | {"client_id": "device-2"})).status_code == 200
        await api.post(f"/api/sessions/{accepted[0].json()['session_id']}/cancel")
        assert (await api.post("/api/dispatch", json=TASK | {"task_name": "third"})).status_code == 200
    assert _refused(node, "sessions_per_device") == 1
    assert node.metrics.registry.get_sample_value("aip_dispatches_total", {"outcome": "too_many_sessions"}) == 1


async def test_an_orchestrator_is_told_that_its_task_failed_and_why(make_node: MakeNode) -> None:
    node = await make_node(max_sessions_per_device=1)
    async with Device(node), Socket(node) as galaxy:
        await galaxy.ask(type="register", client_id="galaxy", client_type="constellation")
        for session_id in ("s1", "s2"):
            galaxy.send(
                type="task",
                client_id="galaxy",
                client_type="constellation",
                target_id="device-1",
                request="do it",
                session_id=session_id,
                metadata={"commands": [{"tool_name": "t"}]},
            )
        first, second = await galaxy.receive(), await galaxy.receive()
        assert (first.type, first.session_id) == ("heartbeat", "s1")
        assert (second.type, second.status, second.session_id) == ("task_end", "failed", "s2")
        assert second.error is not None
        assert "max_sessions_per_device" in second.error


async def test_a_node_takes_only_so_many_sessions(make_node: MakeNode) -> None:
    here, there = await make_node(max_sessions_per_node=2), await make_node(max_sessions_per_node=2)
    async with Device(here), Device(here, "device-2"), rest(here) as api, rest(there) as other:
        for client_id in ("device-1", "device-2"):
            assert (await api.post("/api/dispatch", json=TASK | {"client_id": client_id})).status_code == 200
        await until(lambda: len(here.sessions.runner) == 2, "both have begun")
        third = await api.post("/api/dispatch", json=TASK)
        assert third.status_code == 429
        assert "(max_sessions_per_node)" in third.json()["detail"]
        listed = (await api.get("/api/sessions")).json()["sessions"]
        assert len(listed) == 2, "a refused dispatch leaves nothing"

        async def refused_there() -> bool:
            return (await other.post("/api/dispatch", json=TASK)).status_code == 429

        await until(refused_there, "the other node has read how many sessions this one has")


# -- what a node knows of the others ---------------------------------------------------------------------------------
class _Published(Nodes):
    """Nodes that say what the test wants them to."""

    def __init__(self, state: State) -> None:
        super().__init__(state.connection, state.keys, state.clock, lease_ttl_s=4.5)
        self.sessions: int | None = 0

    async def describe(self) -> list[NodeInfo]:
        if self.sessions is None:
            raise StateUnavailable("Redis cannot be reached")
        return [NodeInfo("other", {"sessions": self.sessions})]


class _Asked:
    """What a node says to another, and how that answers."""

    def __init__(self) -> None:
        self.questions = 0

    async def tell(self, node_id: str, kind: str, asker: str) -> int:
        assert (node_id, kind, asker) == ("other", "load", "me")
        self.questions += 1
        return 1


class _Known:
    """The counts of other nodes as one node knows them, and the clock that it goes by."""

    def __init__(self, state: State, *, most: int = 10) -> None:
        self.clock, self.background, self.published = Clock(), Background(), _Published(state)
        self.asked = _Asked()
        self.node_load = NodeLoad(
            self.published,
            self.background,
            self.asked.tell,
            node_id="me",
            own_sessions=lambda: 0,
            most=most,
            clock=self.clock,
        )

    async def read(self, count: int | None, *, after_s: float = 1.5) -> None:
        """Have the counts read anew."""
        self.published.sessions = count
        self.clock.pass_s(after_s)
        with contextlib.suppress(TooManySessions):
            self.node_load.check("other")
        await self.settled()

    async def settled(self) -> None:
        """What is done in the background is done."""
        await until(lambda: not len(self.background), "the background is done")

    def taken(self, count: int) -> int:
        """How many of so many sessions are let through."""
        for number in range(count):
            try:
                self.node_load.check("other")
            except TooManySessions:
                return number
        return count


async def test_what_was_sent_since_a_count_was_published_is_added_to_it(node: Node) -> None:
    known = _Known(node.state)
    await known.read(4)
    assert known.taken(7) == 6
    known.node_load.check("me")
    await known.read(0)
    known.node_load.check("other")
    await known.read(10)
    assert known.taken(1) == 0
    await known.read(None)
    assert known.taken(1) == 0
    known.clock.pass_s(11)
    assert known.taken(100) == 100
    await known.settled()


async def test_a_node_that_seems_nearly_full_is_asked_and_what_has_ended_there_counts_no_more(node: Node) -> None:
    """Tasks of a few milliseconds: more of them in a second than a node may hold at a time."""
    known = _Known(node.state)
    await known.read(0)
    for turn in range(1, 19):
        known.clock.pass_s(0.06)
        assert known.taken(5) == 5, f"in turn {turn}"
        await known.settled()
        known.node_load.on_answer(b"other\n0")
    assert 10 < known.asked.questions <= 18


async def test_a_node_that_holds_many_is_not_asked_for_each_that_is_sent(node: Node) -> None:
    known = _Known(node.state, most=1000)
    await known.read(600)
    for _ in range(90):
        known.clock.pass_s(0.01)
        assert known.taken(1) == 1
    await known.settled()
    assert known.asked.questions == 0


async def test_a_node_is_asked_once_at_a_time_and_its_silence_says_that_it_is_full(node: Node) -> None:
    known = _Known(node.state)
    await known.read(0)
    assert known.taken(20) == 10
    await known.settled()
    assert known.asked.questions == 1
    known.clock.pass_s(0.5)
    assert known.taken(1) == 0
    await known.settled()
    assert known.asked.questions == 1
    known.node_load.on_answer(b"other\n9")
    # One question's worth was sent behind it.
    assert known.taken(20) == 0
    known.clock.pass_s(0.1)
    assert known.taken(20) == 0
    await known.settled()
    known.node_load.on_answer(b"other\n9")
    assert known.taken(20) == 1


async def test_what_a_node_has_answered_is_newer_than_what_it_published(node: Node) -> None:
    known = _Known(node.state)
    await known.read(0)
    assert known.taken(6) == 6
    await known.settled()
    known.node_load.on_answer(b"other\n6")
    await known.read(0)
    assert known.taken(10) < 10, "published before those six were sent"
    await known.settled()
    await known.read(0, after_s=3.5)
    assert known.taken(9) == 9


async def test_an_answer_that_nobody_waits_for_changes_nothing(node: Node) -> None:
    known = _Known(node.state)
    await known.read(4)
    known.node_load.on_answer(b"other\n0")
    known.node_load.on_answer(b"stranger\n0")
    assert known.taken(10) == 6
    await known.settled()


async def test_more_short_tasks_than_a_node_may_hold_at_a_time_are_taken_within_a_second(make_node: MakeNode) -> None:
    here, there = await make_node(max_sessions_per_node=20), await make_node(max_sessions_per_node=20)
    async with Device(here, features=("autonomous",)) as device, rest(there) as api:
        short = {"client_id": "device-1", "request": "do it"}
        for number in range(60):
            assert (await api.post("/api/dispatch", json=short)).status_code == 200, f"task {number}"
            task = await device.receive()
            device.send(type="command_results", status="completed", session_id=task.session_id)
            await until(lambda: not len(here.sessions.runner), "it has ended")


async def test_of_this_node_the_count_is_its_own(node: Node) -> None:
    loads = NodeLoad(node.state.nodes, Background(), node.bus.tell, node_id="me", own_sessions=lambda: 10, most=10)
    with pytest.raises(TooManySessions):
        loads.check("me")
