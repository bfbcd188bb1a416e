"""How many requests are worked on, how many wait, how many sessions there may be; and that probes are never refused."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator

import httpx
import pytest

from node.api.limits import Limits
from node.api.middleware import OPEN_PATHS
from node.app import Node
from node.background import Background
from node.sessions.loads import NodeLoads
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


async def test_what_was_sent_since_a_count_was_published_is_added_to_it(node: Node) -> None:
    clock, background, published = Clock(), Background(), _Published(node.state)
    loads = NodeLoads(published, background, node_id="me", own_sessions=lambda: 0, most=10, clock=clock)

    async def read(count: int | None) -> None:
        """Have the counts read anew."""
        published.sessions = count
        clock.pass_s(1.5)
        with contextlib.suppress(TooManySessions):
            loads.check("other")
        await until(lambda: not len(background), "the counts are read")

    await read(4)
    for _ in range(6):
        loads.check("other")
    with pytest.raises(TooManySessions):
        loads.check("other")
    loads.check("me")
    await read(0)
    loads.check("other")
    await read(10)
    with pytest.raises(TooManySessions):
        loads.check("other")
    await read(None)
    with pytest.raises(TooManySessions):
        loads.check("other")
    clock.pass_s(11)
    for _ in range(100):
        loads.check("other")
    await until(lambda: not len(background), "the last reading has ended")


async def test_of_this_node_the_count_is_its_own(node: Node) -> None:
    loads = NodeLoads(node.state.nodes, Background(), node_id="me", own_sessions=lambda: 10, most=10)
    with pytest.raises(TooManySessions):
        loads.check("me")
