"""A node is emptied: who is asked to move, in which order, who is waited for, and what is served meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest

from aip_cluster.protocol import Result, ResultStatus
from node.app import Node
from tests.support.asgi import Device, Socket, SocketClosed, rest
from tests.support.features import OURS
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode

DRAIN = "/api/nodes/self/drain"
TASK = {"client_id": "device-1", "request": "do it", "commands": [{"tool_name": "one"}]}
OK = Result(status=ResultStatus.SUCCESS, result=1)
FOR_EVER = {"deadline_s": "3600"}


@contextlib.asynccontextmanager
async def fleet(node: Node, count: int) -> AsyncIterator[list[Device]]:
    """Devices with nothing to do, `idle-0` first."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Device(node, f"idle-{i}")) for i in range(count)]


async def moved(device: Device) -> list[str]:
    """The types of what the device is told until it is asked to move."""
    heard: list[str] = []
    code = None
    while code is None:
        try:
            heard.append((await device.receive()).type)
        except SocketClosed as closed:
            code = closed.code
    assert code == 1012
    return heard


async def test_a_draining_node_is_alive_not_ready_refuses_sockets_and_serves_requests(
    node: Node, api: httpx.AsyncClient
) -> None:
    assert "connection" not in (await api.get("/api/clients")).headers
    began = await api.post(DRAIN)
    assert began.status_code == 202
    assert began.json()["draining"] is True
    ready = await api.get("/readyz")
    assert (ready.status_code, ready.json()["reason"]) == (503, "draining")
    assert (await api.get("/livez")).status_code == 200
    async with Socket(node) as socket:
        assert socket.denied_with == 503
        assert 1 <= int(socket.denied_headers["retry-after"]) <= 5
    served = await api.get("/api/clients")
    # Or a balancer would keep a connection that is about to be closed under its next request.
    assert (served.status_code, served.headers["connection"]) == (200, "close")
    assert node._describe()["draining"] is True


async def test_everybody_is_asked_to_move_and_then_the_drain_is_done(node: Node, api: httpx.AsyncClient) -> None:
    async with fleet(node, 5) as devices:
        await api.post(DRAIN)
        for device in devices:
            await moved(device)
        await node.drainer.wait()
    state = (await api.get(DRAIN)).json()
    assert (state["done"], state["moved"], state["connections"], state["waiting"]) == (True, 5, 0, 0)
    metrics = node.metrics.expose().decode()
    assert "aip_drain_moved_total 5.0" in metrics
    assert "aip_draining 1.0" in metrics
    assert "aip_drain_deadlines_exceeded_total 0.0" in metrics


async def test_sockets_move_at_the_rate_that_was_asked_for_idle_ones_first(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node, features=OURS) as busy, fleet(node, 3) as idle:
        await api.post("/api/dispatch", json=TASK)
        await busy.next_commands()
        # The first turn is at once, the next in a hundred seconds.
        state = (await api.post(DRAIN, params={"rate": "0.01", **FOR_EVER})).json()
        assert state["rate_per_s"] == 0.01
        await moved(idle[0])
        await asyncio.sleep(0.3)
        assert (await api.get(DRAIN)).json()["moved"] == 1
        # Repeating makes it no slower and can make it faster.
        assert (await api.post(DRAIN, params={"rate": "0.001"})).status_code == 400
        assert (await api.post(DRAIN, params={"rate": "5", **FOR_EVER})).json()["rate_per_s"] == 5
        assert (await api.post(DRAIN, params={"rate": "0.5", **FOR_EVER})).json()["rate_per_s"] == 5
        for device in (*idle[1:], busy):
            await moved(device)


async def test_no_rate_outlasts_the_deadline(node: Node, api: httpx.AsyncClient) -> None:
    async with fleet(node, 6) as devices:
        await api.post(DRAIN, params={"rate": "0.01", "deadline_s": "5"})
        for device in devices:
            await moved(device)
        await node.drainer.wait()
    assert "aip_drain_deadlines_exceeded_total 0.0" in node.metrics.expose().decode()


async def test_a_device_that_does_not_deduplicate_is_waited_for_and_given_no_further_step(
    node: Node, api: httpx.AsyncClient
) -> None:
    async with Device(node) as device:
        await api.post("/api/dispatch", json=TASK)
        command, _ = await device.next_commands()
        # A second session of the same device that has not begun its step yet does not begin it.
        await api.post(DRAIN, params=FOR_EVER)
        await until(lambda: node.drainer.state.waiting == 1, "the device is waited for")
        await asyncio.sleep(0.3)
        assert node.drainer.state.moved == 0
        await api.post("/api/dispatch", json=TASK)
        assert (await device.receive()).type == "task"
        device.answer(command, OK)
        assert "command" not in await moved(device)


async def test_a_device_that_deduplicates_is_moved_in_the_middle_of_a_step(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node, features=OURS) as device:
        await api.post("/api/dispatch", json=TASK)
        await device.next_commands()
        await api.post(DRAIN, params=FOR_EVER)
        await moved(device)


async def test_at_the_deadline_a_device_in_the_middle_of_a_step_is_moved_too(
    node: Node, api: httpx.AsyncClient
) -> None:
    async with Device(node) as device:
        await api.post("/api/dispatch", json=TASK)
        await device.next_commands()
        await api.post(DRAIN, params=FOR_EVER)
        await until(lambda: node.drainer.state.waiting == 1, "the device is waited for")
        await api.post(DRAIN, params={"deadline_s": "0"})
        await moved(device)
        await node.drainer.wait()
    assert "aip_drain_deadlines_exceeded_total 1.0" in node.metrics.expose().decode()


async def test_requests_that_wait_are_answered_with_what_there_is(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node):
        sid = (await api.post("/api/dispatch", json=TASK | {"task_name": "job"})).json()["session_id"]
        waiting = asyncio.create_task(api.get("/api/task_result/job", params={"wait": "60"}))
        following = asyncio.create_task(api.get(f"/api/sessions/{sid}/events"))
        await until(lambda: node.sessions.waiters._by_session and node.sessions.followers._by_session, "both wait")
        await api.post(DRAIN, params=FOR_EVER)
        async with asyncio.timeout(30):
            assert (await waiting).json() == {"status": "pending"}
            # It ends without the session's end: the reader comes back with the last id, elsewhere.
            assert "event: ended" not in (await following).text
            again = await api.get("/api/task_result/job", params={"wait": "60"})
        assert again.json() == {"status": "pending"}


async def test_a_drain_can_be_taken_back(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node) as device:
        first = (await api.post("/api/dispatch", json=TASK | {"task_name": "first"})).json()["session_id"]
        command, _ = await device.next_commands()
        await api.post(DRAIN, params=FOR_EVER)
        await until(lambda: node.drainer.state.waiting == 1, "the device is waited for")
        await api.post("/api/dispatch", json=TASK | {"task_name": "second"})
        assert (await device.receive()).type == "task"

        ended = await api.delete(DRAIN)
        assert (ended.status_code, ended.json()["draining"]) == (200, False)
        assert (await api.delete(DRAIN)).status_code == 200
        assert (await api.get("/readyz")).status_code == 200
        # The step that was held back is made.
        later, _ = await device.next_commands()
        assert later.session_id != first
        for answered in (command, later):
            device.answer(answered, OK)
        for name in ("first", "second"):
            assert (await api.get(f"/api/task_result/{name}", params={"wait": "30"})).json()["state"] == "completed"
        async with Device(node, "newcomer"):
            assert len(node.gateway.hub) == 2
    assert "aip_draining 0.0" in node.metrics.expose().decode()


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"rate": "0"}, "rate"),
        ({"rate": "fast"}, "rate"),
        ({"rate": "nan"}, "rate"),
        ({"deadline_s": "-1"}, "deadline_s"),
        ({"deadline_s": "inf"}, "deadline_s"),
        ({"deadline": "5"}, "deadline"),
    ],
)
async def test_a_wrong_parameter_is_named_and_nothing_begins(
    node: Node, api: httpx.AsyncClient, query: dict[str, str], named: str
) -> None:
    refused = await api.post(DRAIN, params=query)
    assert (refused.status_code, refused.json()["detail"].partition(":")[0]) == (400, named)
    assert not node.drainer.active


async def test_a_drain_needs_the_key(make_node: MakeNode) -> None:
    node = await make_node(api_key="k")
    async with rest(node) as api:
        assert [(await api.request(m, DRAIN)).status_code for m in ("POST", "GET", "DELETE")] == [401, 401, 401]
    assert not node.drainer.active


async def test_a_drain_before_a_stop_is_not_taken_back(node: Node, api: httpx.AsyncClient) -> None:
    node.drainer.final = True
    node.drainer.begin()
    assert (await api.delete(DRAIN)).status_code == 409
    assert node.drainer.active


async def test_a_socket_that_came_in_before_the_drain_and_registers_after_it_began_is_sent_on(node: Node) -> None:
    async with Socket(node) as socket:
        node.drainer.begin(deadline_s=3600)
        socket.send(type="register", client_id="device-1")
        with pytest.raises(SocketClosed) as closed:
            await socket.receive()
    assert closed.value.code == 1012
    assert not len(node.gateway.hub)


# -- constellations that wait ----------------------------------------------------------------------------------------
@contextlib.asynccontextmanager
async def boss(node: Node, *features: str) -> AsyncIterator[Socket]:
    """A constellation for `device-1`; UFO's lists no features."""
    async with Socket(node) as socket:
        answer = await socket.ask(
            type="register",
            client_id="boss@device-1",
            client_type="constellation",
            target_id="device-1",
            metadata={"supported_features": list(features)},
        )
        assert answer.status == "ok", answer.error
        yield socket


async def _ask(socket: Socket, session_id: str) -> None:
    socket.send(
        type="task",
        session_id=session_id,
        task_name=f"galaxy/{session_id}",
        request="do it",
        metadata={"commands": [{"tool_name": "one"}]},
    )
    assert (await socket.receive()).type == "heartbeat"


async def test_a_constellation_keeps_its_socket_until_it_is_told_of_the_end_that_it_waits_for(
    make_node: MakeNode,
) -> None:
    here, there = await make_node(), await make_node()
    async with Device(there, features=OURS) as device, boss(here) as socket, rest(here) as api:
        await _ask(socket, "boss@1")
        first, _ = await device.next_commands()
        await api.post(DRAIN, params=FOR_EVER)
        await until(lambda: here.drainer.state.waiting == 1, "the constellation is waited for")
        # What it asks for meanwhile is served.
        await _ask(socket, "boss@2")
        second, _ = await device.next_commands()
        device.answer(first, OK)
        end = await socket.receive()
        assert (end.type, end.session_id, end.status) == ("task_end", "boss@1", "completed")
        assert here.drainer.state.waiting == 1, "it waits for the other"
        device.answer(second, OK)
        assert (await socket.receive()).session_id == "boss@2"
        with pytest.raises(SocketClosed) as closed:
            await socket.receive()
        assert closed.value.code == 1012
        await here.drainer.wait()


async def test_at_the_deadline_a_constellation_that_waits_is_moved_all_the_same(make_node: MakeNode) -> None:
    node = await make_node()
    async with Device(node, features=OURS) as device, boss(node) as socket, rest(node) as api:
        await _ask(socket, "boss@1")
        await device.next_commands()
        await api.post(DRAIN, params={"deadline_s": "0"})
        with pytest.raises(SocketClosed) as closed:
            await socket.receive()
        assert closed.value.code == 1012


async def test_a_constellation_that_can_ask_again_is_moved_while_it_waits(node: Node, api: httpx.AsyncClient) -> None:
    """As ours: it lists `resume`, and asks for what is under way over its next socket."""
    async with Device(node, features=()) as device, boss(node, "resume") as socket:
        await _ask(socket, "boss@1")
        await device.next_commands()
        await api.post(DRAIN, params=FOR_EVER)
        with pytest.raises(SocketClosed):
            await socket.receive()
        assert node.drainer.state.connections >= 1, "the device is in the middle of a step"


async def test_a_constellation_whose_task_was_refused_waits_for_nothing(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node, features=OURS), boss(node) as socket:
        socket.send(type="task", session_id="boss@1", request="in words, and no model is configured")
        assert (await socket.receive()).status == "failed"
        await api.post(DRAIN, params=FOR_EVER)
        with pytest.raises(SocketClosed):
            await socket.receive()


async def test_nobody_waits_for_an_end_that_can_come_no_more(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session was lost with a failover of Redis: its deadline is over, and nobody tells of an end."""
    monkeypatch.setattr("node.connections.asked_sessions.LATE_S", 0.0)
    node = await make_node()
    async with Device(node, features=OURS) as device, boss(node) as socket, rest(node) as api:
        metadata = {"commands": [{"tool_name": "one"}], "timeout_s": 1}
        socket.send(type="task", session_id="boss@1", request="do it", metadata=metadata)
        assert (await socket.receive()).type == "heartbeat"
        await device.next_commands()
        await node.state.connection.command("DEL", node.state.keys.session("boss@1"))
        await api.post(DRAIN, params=FOR_EVER)
        with pytest.raises(SocketClosed) as closed:
            await socket.receive()
        assert closed.value.code == 1012
