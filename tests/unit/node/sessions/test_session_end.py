"""How tasks end that a device works on by itself: with the others of the moment, or by a call of their own."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from aip_cluster.protocol import ClientMessage, ClientMessageType, TaskStatus
from node.app import Node
from shared_state.errors import StateUnavailable
from shared_state.sessions import Ended, Ending, SessionState
from tests.support.asgi import Device, Socket, rest
from tests.support.tasks import dispatch, next_of, state_is
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode

AUTONOMOUS = ("autonomous",)
ENDS = ("session_end", "session_ends")


def _ends(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scripts by which sessions are ended from now on, call by call."""
    calls: list[str] = []
    genuine = node.state.connection.script

    def script(name: str, *args: Any, **options: Any) -> Awaitable[Any]:
        if name in ENDS:
            calls.append(name)
        return genuine(name, *args, **options)

    monkeypatch.setattr(node.state.connection, "script", script)
    return calls


async def _taken(node: Node, device: Device, **change: Any) -> str:
    """A task that the device has."""
    sid = await dispatch(node, commands=None, **change)
    assert (await next_of(device, "task")).session_id == sid
    return sid


async def test_what_ends_in_one_moment_is_one_call(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Device(node, features=AUTONOMOUS) as device:
        sids = [await _taken(node, device) for _ in range(5)]
        calls = _ends(node, monkeypatch)
        connection = node.gateway.hub.get("device-1")
        assert connection is not None
        for number, sid in enumerate(sids):
            device.send(type="task_end", session_id=sid, status="completed", result=number)
        for sid in sids:
            await state_is(node, sid, SessionState.COMPLETED)
        assert set(calls) == {"session_ends"}
        await until(lambda: not connection.taken, "nothing is under way")
        for number, sid in enumerate(sids):
            found = await node.state.sessions.find(sid)
            assert found is not None
            assert (found.result, found.node_id) == (number, node.node_id)
            assert found.dispatched_ms is not None
            events = [e.facts["event"] for e in await node.state.sessions.events(sid)]
            assert events == ["created", "dispatched", "ended"]
        ended = {"state": "completed"}
        assert node.metrics.registry.get_sample_value("aip_sessions_ended_total", ended) == 5


async def test_whoever_waits_for_the_end_is_woken(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Device(node, features=AUTONOMOUS) as device, rest(node) as api:
        sid = await _taken(node, device, task_name="job")
        calls = _ends(node, monkeypatch)
        waiting = asyncio.create_task(api.get("/api/task_result/job", params={"wait": "30"}))
        key = node.state.keys.session(sid)

        async def watched() -> bool:
            return bool(await node.state.connection.command("HEXISTS", key, "watchers"))

        await until(watched, "somebody waits")
        device.send(type="task_end", session_id=sid, status="failed", error="no disk")
        answer = (await waiting).json()
        assert (answer["status"], answer["state"], answer["error"]) == ("done", "failed", "no disk")
        assert calls == ["session_ends", "session_end"]


async def test_a_session_that_somebody_else_ended_first_is_told_so(node: Node) -> None:
    async with Device(node, features=AUTONOMOUS) as device:
        sid = await _taken(node, device)
        # The word of it has not come yet.
        cancelled = await node.state.sessions.end(Ending(sid, SessionState.CANCELLED, client_id="device-1"))
        assert isinstance(cancelled, Ended)
        device.send(type="task_end", session_id=sid, status="completed", result=1)
        end = await next_of(device, "task_end")
        assert (end.session_id, end.status, end.error) == (sid, "failed", "Task cancelled")
        found = await node.state.sessions.find(sid)
        assert found is not None
        assert (found.state, found.result) == (SessionState.CANCELLED, None)
        assert node.metrics.registry.get_sample_value("aip_session_late_ends_total") == 1


async def test_of_what_is_said_twice_the_first_stands(node: Node) -> None:
    async with Device(node, features=AUTONOMOUS) as device:
        sid = await _taken(node, device)
        for result in (1, 2):
            device.send(type="task_end", session_id=sid, status="completed", result=result)
        await state_is(node, sid, SessionState.COMPLETED)
        found = await node.state.sessions.find(sid)
        assert found is not None
        assert found.result == 1


@pytest.mark.parametrize("owned", [True, False])
async def test_whoever_asked_over_a_socket_is_told(node: Node, monkeypatch: pytest.MonkeyPatch, *, owned: bool) -> None:
    calls = _ends(node, monkeypatch)
    async with Device(node, features=AUTONOMOUS) as device, Socket(node) as galaxy:
        await galaxy.ask(type="register", client_id="galaxy", client_type="constellation")
        if not owned:
            sid = await _taken(node, device)
        else:
            ask = {"client_type": "constellation", "target_id": "device-1", "request": "do it", "session_id": "g@1"}
            assert (await galaxy.ask(type="task", client_id="galaxy", **ask)).type == "heartbeat"
            sid = "g@1"
            await next_of(device, "task")
        device.send(type="task_end", session_id=sid, status="completed", result=7)
        if owned:
            end = await galaxy.receive()
            assert (end.type, end.session_id, end.result) == ("task_end", "g@1", 7)
        await state_is(node, sid, SessionState.COMPLETED)
        assert calls == (["session_end"] if owned else ["session_ends"])


async def test_an_end_that_redis_did_not_take_is_stored_before_a_node_is_gone(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await make_node(), await make_node()
    device = await Device(here, features=AUTONOMOUS).__aenter__()
    sid = await _taken(here, device)
    genuine, refused = here.state.connection.script, list[str]()

    def script(name: str, *args: Any, **options: Any) -> Awaitable[Any]:
        if name in ENDS and len(refused) < 2:
            refused.append(name)
            return _unavailable()
        return genuine(name, *args, **options)

    monkeypatch.setattr(here.state.connection, "script", script)
    # What the device says in the last moment.
    runner = here.sessions.runner
    session = next(iter(runner._sessions))
    said = ClientMessage(type=ClientMessageType.TASK_END, status=TaskStatus.COMPLETED, session_id=sid, result=1)
    runner.on_task_end(session.connection, said)
    await here.stop()
    assert refused == ["session_ends", "session_end"]
    found = await there.state.sessions.find(sid)
    assert found is not None
    assert (found.state, found.result) == (SessionState.COMPLETED, 1)
    await device.close()


async def _unavailable() -> None:
    raise StateUnavailable("Redis cannot be reached")
