"""What merely happened in a session is stored a moment later, with what came before it, and once."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from node.app import Node
from node.sessions import runner, writer
from shared_state.errors import StateUnavailable
from shared_state.sessions import SessionState
from tests.support.asgi import Device
from tests.support.tasks import dispatch, next_of, state_is
from tests.support.wait import until

AUTONOMOUS = ("autonomous",)


def _stored(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sessions of which a step is stored from now on."""
    stored: list[str] = []
    genuine = node.state.sessions.advance

    async def advance(session_id: str, *args: Any, **options: Any) -> SessionState:
        stored.append(session_id)
        return await genuine(session_id, *args, **options)

    monkeypatch.setattr(node.state.sessions, "advance", advance)
    return stored


async def test_what_was_handed_over_is_stored_while_the_device_is_at_work(node: Node) -> None:
    async with Device(node, features=AUTONOMOUS) as device:
        sid = await dispatch(node, commands=None)
        await next_of(device, "task")
        await state_is(node, sid, SessionState.DISPATCHED)
        found = await node.state.sessions.find(sid)
        assert found is not None
        assert found.dispatched_ms is not None
        assert found.node_id == node.node_id


async def test_what_was_handed_over_just_now_does_not_go_with_what_is_late(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most tasks end in a moment, and what is behind of them travels with their end."""
    now_s = [0.0]
    for module in (writer, runner):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    stored = _stored(node, monkeypatch)
    async with Device(node, features=AUTONOMOUS) as device:
        slow = await dispatch(node, commands=None)
        await next_of(device, "task")
        now_s[0] = writer.LATE_S * 0.8
        quick = await dispatch(node, commands=None)
        await next_of(device, "task")
        now_s[0] = writer.LATE_S * 1.1
        await until(lambda: slow in stored, "the first is late")
        device.send(type="task_end", session_id=quick, status="completed", result=1)
        await state_is(node, quick, SessionState.COMPLETED)
        assert quick not in stored


class Away:
    """Redis, away until it is `back`; and how the steps wait for it, which is not by the clock here."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.back = asyncio.Event()
        self.delays_s: list[float] = []
        self.waiting = self.most_waiting = 0
        self._genuine = node.state.sessions.advance
        monkeypatch.setattr(node.state.sessions, "advance", self._advance)
        monkeypatch.setattr(writer, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": self._sleep}))

    async def _advance(self, session_id: str, *args: Any, **options: Any) -> SessionState:
        if self.back.is_set():
            return await self._genuine(session_id, *args, **options)
        raise StateUnavailable("Redis cannot be reached")

    async def _sleep(self, delay_s: float) -> None:
        self.delays_s.append(delay_s)
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        await asyncio.sleep(0.01)
        self.waiting -= 1


async def test_while_redis_is_away_one_call_waits_for_a_session_however_much_happens(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Away(node, monkeypatch)
    async with Device(node, features=AUTONOMOUS) as device:
        sid = await dispatch(node, commands=None)
        await next_of(device, "task")
        for number in range(40):
            device.send(type="command_results", status="continue", session_id=sid, messages=[f"step {number}"])
            await asyncio.sleep(0.01)
        # That it was handed over, and that it began.
        await until(lambda: away.most_waiting == 2, "both wait")
        away.back.set()

        async def all_told() -> bool:
            events = await node.state.sessions.events(sid)
            said = [message for event in events for message in event.facts.get("messages", [])]
            return said == [f"step {number}" for number in range(40)]

        await until(all_told, "what happened meanwhile is stored, in order")
        assert away.most_waiting == 2


async def test_while_redis_is_away_what_merely_happened_is_tried_again_more_and_more_slowly(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Device(node, features=AUTONOMOUS) as device:
        sid = await dispatch(node, commands=None)
        await next_of(device, "task")
        device.send(type="command_results", status="continue", session_id=sid, messages=["begun"])
        await state_is(node, sid, SessionState.RUNNING)
        away = Away(node, monkeypatch)
        device.send(type="command_results", status="continue", session_id=sid, messages=["half way"])
        await until(lambda: len(away.delays_s) >= 8, "it is tried again and again")
        ceilings_s = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
        assert [d for d, most_s in zip(away.delays_s, ceilings_s, strict=False) if d > most_s] == []
        # Jitter is between 0 and the ceiling: eight times all in the lowest tenth would be no jitter.
        assert sum(away.delays_s[:8]) > 0.1


async def test_what_is_on_its_way_when_a_session_ends_is_stored_with_the_end(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_its_way, fail = asyncio.Event(), asyncio.Event()

    async def advance(*_: Any, **__: Any) -> SessionState:
        on_its_way.set()
        await fail.wait()
        raise StateUnavailable("Redis went away in its midst")

    monkeypatch.setattr(node.state.sessions, "advance", advance)
    async with Device(node, features=AUTONOMOUS) as device:
        sid = await dispatch(node, commands=None)
        await next_of(device, "task")
        await on_its_way.wait()
        device.send(type="task_end", session_id=sid, status="completed", result=1)
        assert (await device.ask(type="heartbeat")).type == "heartbeat"
        fail.set()
        await state_is(node, sid, SessionState.COMPLETED)
        found = await node.state.sessions.find(sid)
        assert found is not None
        assert (found.node_id, found.dispatched_ms is None) == (node.node_id, False)
        events = [event.facts["event"] for event in await node.state.sessions.events(sid)]
        assert events == ["created", "dispatched", "ended"]


async def test_steps_of_a_session_are_stored_one_after_the_other(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Redis is silent, and each takes long to fail."""
    genuine, silent = node.state.sessions.advance, True

    async def advance(session_id: str, *args: Any, **options: Any) -> SessionState:
        if silent:
            await asyncio.sleep(0.2)
            raise StateUnavailable("Redis does not answer")
        return await genuine(session_id, *args, **options)

    monkeypatch.setattr(node.state.sessions, "advance", advance)
    async with Device(node, features=AUTONOMOUS) as device:
        sid = await dispatch(node, commands=None)
        await next_of(device, "task")
        for number in range(10):
            device.send(type="command_results", status="continue", session_id=sid, messages=[f"step {number}"])
            await asyncio.sleep(0.05)
        silent = False
        device.send(type="task_end", session_id=sid, status="completed", result=1)
        await state_is(node, sid, SessionState.COMPLETED)
        events = [event.facts for event in await node.state.sessions.events(sid)]
        assert [m for e in events for m in e.get("messages", [])] == [f"step {number}" for number in range(10)]
