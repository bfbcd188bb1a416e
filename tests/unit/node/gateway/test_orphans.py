"""What becomes of running sessions when the constellation that asked for them has left for good."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from node.app import Node
from node.sessions.suspension import ORPHANED
from shared_state.delay_queue import DueKind
from shared_state.errors import StateUnavailable
from shared_state.sessions import SessionState
from tests.support.asgi import Device, Socket, rest
from tests.support.features import OURS
from tests.support.tasks import OK, next_of, state_is
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode

S = SessionState
SID = "boss@1"
CANCEL = {"orphaned_sessions": "cancel"}


async def boss(node: Node) -> Socket:
    socket = await Socket(node).__aenter__()
    answer = await socket.ask(
        type="register", client_id="boss@device-1", client_type="constellation", target_id="device-1"
    )
    assert answer.status == "ok", answer.error
    return socket


async def ask(socket: Socket, **metadata: Any) -> None:
    commands = [{"tool_name": "one"}]
    socket.send(type="task", session_id=SID, task_name="t", request="x", metadata={"commands": commands, **metadata})
    assert (await socket.receive()).type == "heartbeat"


@contextlib.asynccontextmanager
async def at_work(here: Node, there: Node, **metadata: Any) -> AsyncIterator[tuple[Device, Socket]]:
    """A device on one node works for a constellation on the other."""
    async with Device(there, features=OURS) as device:
        socket = await boss(here)
        await ask(socket, **metadata)
        await device.next_commands()
        yield device, socket


async def detail(node: Node) -> dict[str, Any]:
    async with rest(node) as api:
        found: dict[str, Any] = (await api.get(f"/api/sessions/{SID}")).json()
        return found


async def test_a_goodbye_cancels_what_is_to_be_cancelled_and_the_device_stops(make_node: MakeNode) -> None:
    here, there = await make_node(orphaned_sessions="cancel"), await make_node()
    async with at_work(here, there) as (device, socket):
        assert (await detail(there))["orphaned_sessions"] == "cancel"
        await socket.close()
        end = await next_of(device, "task_end")
        assert (end.session_id, end.error) == (SID, ORPHANED)
        await state_is(here, SID, S.CANCELLED)
    events = [e.facts for e in await here.state.sessions.events(SID)]
    assert {"event": "orphaned", "client_id": "boss@device-1", "orphaned_sessions": "cancel"} in events
    assert events[-1] == {"event": "ended", "state": "cancelled", "error": ORPHANED}


async def test_by_default_it_goes_on_and_the_events_say_so(make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    async with Device(there, features=OURS) as device:
        socket = await boss(here)
        await ask(socket)
        command, _ = await device.next_commands()
        assert (await detail(here))["orphaned_sessions"] == "continue"
        await socket.close()

        async def noted() -> bool:
            return any(e.facts["event"] == "orphaned" for e in await here.state.sessions.events(SID))

        await until(noted, "that its requester left is noted")
        device.answer(command, OK)
        await state_is(here, SID, S.COMPLETED)


@pytest.mark.parametrize(
    ("setting", "given", "state"), [("continue", "cancel", S.CANCELLED), ("cancel", "continue", S.RUNNING)]
)
async def test_a_task_may_say_otherwise(make_node: MakeNode, setting: str, given: str, state: SessionState) -> None:
    node = await make_node(orphaned_sessions=setting)
    async with at_work(node, node, orphaned_sessions=given) as (_, socket):
        assert (await detail(node))["orphaned_sessions"] == given
        await socket.close()
        await state_is(node, SID, state)


async def test_a_broken_socket_is_waited_for_and_then_its_sessions_are_orphaned(make_node: MakeNode) -> None:
    node = await make_node(reconnect_grace_s=1.0)
    async with at_work(node, node, **CANCEL) as (_, socket):
        await socket.cut()
        found = await node.state.sessions.find(SID)
        assert found is not None
        assert found.state is S.RUNNING
        await state_is(node, SID, S.CANCELLED)


async def test_a_constellation_that_comes_back_in_time_has_not_left(make_node: MakeNode) -> None:
    node = await make_node(reconnect_grace_s=1.0)
    async with Device(node, features=OURS) as device:
        socket = await boss(node)
        await ask(socket, **CANCEL)
        command, _ = await device.next_commands()
        await socket.cut()
        back = await boss(node)

        async def over() -> bool:
            return (await node.state.delay_queue.look())[0] == 0

        await until(over, "its absence was looked at")
        device.answer(command, OK)
        assert (await next_of(back, "task_end")).status == "completed"
        await back.close()


async def test_when_its_node_died_with_it_another_node_does_the_same(make_node: MakeNode) -> None:
    """As the reaper leaves it: the registration away, and the moment at which it may be so no longer."""
    here, there = await make_node(), await make_node(reconnect_grace_s=0.5)
    async with at_work(here, there, **CANCEL):
        await there.state.delay_queue.add(DueKind.CLIENT, "boss@device-1", 0.7)
        assert (await there.state.clients.reap("boss@device-1", here.node_id, away_s=0.5)).held
        await state_is(there, SID, S.CANCELLED)


async def test_while_redis_is_away_it_is_left_to_be_looked_at_again(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await make_node()
    genuine, away = node.state.asked.of, [True]

    async def of(client_id: str) -> list[str]:
        if away.pop() if away else False:
            raise StateUnavailable("Redis went away")
        return await genuine(client_id)

    monkeypatch.setattr(node.state.asked, "of", of)
    async with at_work(node, node, **CANCEL) as (_, socket):
        await socket.close()
        await state_is(node, SID, S.CANCELLED)


async def test_what_the_client_asks_for_since_is_not_orphaned(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said goodbye, is back at once, and asks anew while its goodbye is dealt with."""
    node = await make_node()
    genuine, held, go_on = node.state.asked.of, asyncio.Event(), asyncio.Event()

    async def of(client_id: str) -> list[str]:
        held.set()
        await go_on.wait()
        return await genuine(client_id)

    async with at_work(node, node, **CANCEL) as (device, socket):
        monkeypatch.setattr(node.state.asked, "of", of)
        await socket.close()
        await held.wait()
        back = await boss(node)
        commands = [{"tool_name": "two"}]
        back.send(type="task", session_id="boss@2", request="y", metadata={"commands": commands, **CANCEL})
        assert (await back.receive()).type == "heartbeat"
        command, _ = await device.next_commands()
        go_on.set()
        await state_is(node, SID, S.CANCELLED)
        device.answer(command, OK)
        await state_is(node, "boss@2", S.COMPLETED)
        await back.close()


async def test_another_value_is_refused_and_the_field_is_named(node: Node) -> None:
    async with Device(node, features=OURS):
        socket = await boss(node)
        socket.send(type="task", session_id=SID, request="x", metadata={"orphaned_sessions": "kill"})
        refused = await socket.receive()
        assert refused.error == "metadata.orphaned_sessions: must be one of continue, cancel"
        await socket.close()


async def test_sessions_that_rest_asked_for_have_no_such_policy(node: Node) -> None:
    async with Device(node, features=OURS), rest(node) as api:
        body = {"client_id": "device-1", "request": "x", "commands": [{"tool_name": "one"}]}
        sid = (await api.post("/api/dispatch", json=body)).json()["session_id"]
        assert (await api.get(f"/api/sessions/{sid}")).json()["orphaned_sessions"] is None
