"""What waits for a device in Redis is begun once: however it is heard of, and whatever cannot be stored meanwhile."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from node.app import Node
from shared_state.errors import StateUnavailable
from shared_state.sessions import SessionState
from tests.support.asgi import Device, rest
from tests.support.features import OURS
from tests.support.records import publish
from tests.support.tasks import OK, dispatch, next_of, state_is
from tests.support.wait import until


async def test_a_wake_up_that_is_lost_loses_no_task(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Device(node, features=OURS) as device:
        with monkeypatch.context() as deaf:
            deaf.setattr(node.gateway.deliverer, "on_order", lambda order: None)
            sids = [await dispatch(node) for _ in range(3)]
            assert (await device.ask(type="heartbeat")).type == "heartbeat", "no task came"
        await node.gateway.deliverer.drain_all()
        begun: list[str | None] = []
        for _ in sids:
            command, _ = await device.next_commands()
            begun.append(command.session_id)
            device.answer(command, OK, OK)
        assert begun == sids, "in the order of their dispatch"
        for sid in sids:
            await state_is(node, sid, SessionState.COMPLETED)


async def test_a_task_that_ended_and_cannot_be_stored_so_is_not_begun_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Redis it looks as if nobody had begun it."""
    genuine, tried, back = node.state.connection.script, set[str](), asyncio.Event()

    async def refused() -> None:
        raise StateUnavailable("Redis cannot be reached")

    def script(name: str, *args: Any, **options: Any) -> Awaitable[Any]:
        tried.add(name)
        if name in {"session_end", "session_ends"} and not back.is_set():
            return refused()
        return genuine(name, *args, **options)

    monkeypatch.setattr(node.state.connection, "script", script)
    async with Device(node, features=("autonomous", "deduplicates")) as device:
        sid = await dispatch(node, commands=None)
        assert (await next_of(device, "task")).session_id == sid
        device.send(type="task_end", session_id=sid, status="completed", result={"n": 1})
        await until(lambda: {"session_ends", "session_end"} <= tried, "it was tried with others, and by itself")
        assert await node.state.session_creator.waiting("device-1", but=()) != []
        await node.gateway.deliverer.drain_all()
        assert (await device.ask(type="heartbeat")).type == "heartbeat"
        back.set()
        await state_is(node, sid, SessionState.COMPLETED)
        await node.gateway.deliverer.drain_all()
        assert (await device.ask(type="heartbeat")).type == "heartbeat"
        assert device.count("task") == 1


async def test_what_has_ended_is_remembered_no_longer(node: Node) -> None:
    async with Device(node, features=OURS) as device:
        for n in range(6):
            sid = await dispatch(node)
            command, _ = await device.next_commands()
            if n % 2:
                device.answer(command, OK, OK)
                await state_is(node, sid, SessionState.COMPLETED)
            else:
                async with rest(node) as api:
                    assert (await api.post(f"/api/sessions/{sid}/cancel")).status_code == 200
                await state_is(node, sid, SessionState.CANCELLED)
        connection = node.gateway.hub.get("device-1")
        assert connection is not None
        await until(lambda: not connection.taken, "nothing is under way")


async def test_an_order_that_cannot_be_read_holds_up_nobody(node: Node) -> None:
    async with Device(node, features=OURS) as device:
        for order in (b"{}", b'{"session_id":"half an order"}', b"{", b'{"client_id":5}'):
            assert await publish(node.state, node.node_id, order) == 1
        sid = await dispatch(node)
        command, _ = await device.next_commands()
        assert command.session_id == sid
        device.answer(command, OK, OK)
        await state_is(node, sid, SessionState.COMPLETED)
