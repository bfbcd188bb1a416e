"""Clients that are away: tasks accepted for them, tasks that wait for them, what ended while nobody was there."""

from typing import Any

import pytest

from node.app import Node
from node.sessions.suspension import Suspensions
from shared_state.delay_queue import DueKind
from shared_state.errors import StateUnavailable
from shared_state.sessions import Session, SessionState
from tests.support.asgi import Device, Socket, rest
from tests.support.features import OURS
from tests.support.records import a_registration, end_session
from tests.support.tasks import GONE, OK, dispatch, next_of, state_is
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode

BODY = {"client_id": "device-1", "request": "do it", "commands": [{"tool_name": "one"}]}


async def _boss(node: Node) -> Socket:
    """A constellation for `device-1`, registered."""
    socket = await Socket(node).__aenter__()
    fields = {"client_id": "boss@device-1", "client_type": "constellation", "target_id": "device-1"}
    assert (await socket.ask(type="register", **fields)).status == "ok"
    return socket


async def _found(node: Node, session_id: str) -> Session:
    found = await node.state.sessions.find(session_id)
    assert found is not None
    return found


async def test_a_task_for_a_device_that_is_away_is_accepted_and_delivered_once_it_is_back(make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    device = await Device(here, features=OURS).__aenter__()
    await device.cut()
    sid = await dispatch(there)
    async with Device(there, features=OURS) as back:
        command, _ = await back.next_commands()
        back.answer(command, OK, OK)
        await state_is(here, sid, SessionState.COMPLETED)
        assert (back.count("task"), back.count("command")) == (1, 1)


async def test_after_a_goodbye_nothing_is_accepted(make_node: MakeNode) -> None:
    node = await make_node(reconnect_grace_s=600)
    device = await Device(node).__aenter__()
    sid = await dispatch(node)
    await device.next_commands()
    await device.close()
    await state_is(node, sid, SessionState.CANCELLED)
    assert (await _found(node, sid)).error == GONE
    async with rest(node) as api:
        assert (await api.post("/api/dispatch", json=BODY)).status_code == 404


async def test_a_goodbye_counts_though_the_node_was_just_sending(make_node: MakeNode) -> None:
    """The frame that crossed it could not be sent any more: that is no reason to wait for the device."""
    node = await make_node(reconnect_grace_s=600)
    device = await Device(node).__aenter__()
    sid = await dispatch(node)
    await device.next_commands()
    device.break_sending()
    connection = node.gateway.hub.get("device-1")
    assert connection is not None
    connection.send_error("lost")
    await connection.flushed()
    await device.close()
    await state_is(node, sid, SessionState.CANCELLED)


async def test_who_does_not_come_back_in_time_is_gone_and_its_constellation_is_told_once(make_node: MakeNode) -> None:
    here, there = await make_node(reconnect_grace_s=0.5), await make_node(reconnect_grace_s=0.5)
    device = await Device(here, features=OURS).__aenter__()
    boss = await _boss(there)
    boss.send(
        type="task", client_type="constellation", session_id="s1", request="x", metadata={"commands": BODY["commands"]}
    )
    await device.next_commands()
    await device.cut()
    await state_is(there, "s1", SessionState.CANCELLED)
    while (end := await boss.receive()).type != "task_end":
        pass
    assert (end.session_id, end.status, end.error) == ("s1", "failed", GONE)
    assert await there.state.clients.find("device-1") is None
    assert (await boss.ask(type="heartbeat")).type == "heartbeat"
    assert boss.count("task_end") == 1
    await boss.close()
    async with rest(here) as api:
        assert (await api.post("/api/dispatch", json=BODY)).status_code == 404


async def test_a_constellation_that_was_away_gets_what_ended_meanwhile_once(make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    async with Device(there, features=OURS) as device:
        boss = await _boss(here)
        boss.send(
            type="task",
            client_type="constellation",
            session_id="s1",
            request="x",
            metadata={"commands": BODY["commands"]},
        )
        command, _ = await device.next_commands()
        await boss.cut()
        device.answer(command, OK)
        await state_is(here, "s1", SessionState.COMPLETED)
        back = await _boss(there)
        end = await back.receive()
        assert (end.type, end.session_id, end.status) == ("task_end", "s1", "completed")
        await back.cut()
        again = await _boss(here)
        assert (await again.ask(type="heartbeat")).type == "heartbeat"
        assert again.count("task_end") == 0
        await again.close()


async def test_a_constellation_may_come_back_before_its_device_whose_node_has_just_died(node: Node) -> None:
    await node.state.clients.register(a_registration("device-1", "dead"))
    boss = await _boss(node)
    await boss.close()


async def test_a_session_cancelled_while_its_device_was_away_is_told_to_the_device(node: Node) -> None:
    device = await Device(node, features=OURS).__aenter__()
    sid = await dispatch(node)
    await device.next_commands()
    await device.cut()
    async with rest(node) as api:
        assert (await api.post(f"/api/sessions/{sid}/cancel")).json()["cancelled"] is True
    async with Device(node, features=OURS) as back:
        end = await next_of(back, "task_end")
        assert (end.session_id, end.status) == (sid, "failed")
        assert back.count("command") == 0


# -- tasks that wait for their device --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"ttl_s": 5}, "ttl_s: only with queue_if_offline"),
        ({"ttl_s": 5, "queue_if_offline": False}, "ttl_s: only with queue_if_offline"),
        ({"ttl_s": 0, "queue_if_offline": True}, "ttl_s: "),
        ({"ttl_s": -1, "queue_if_offline": True}, "ttl_s: "),
        ({"ttl_s": "soon", "queue_if_offline": True}, "ttl_s: "),
        ({"ttl_s": 1e9, "queue_if_offline": True}, "ttl_s: must be at most"),
        ({"queue_if_offline": "yes"}, "queue_if_offline: "),
        ({"queue_if_offline": 1}, "queue_if_offline: "),
        ({"max_attempts": 0}, "max_attempts: "),
        ({"max_attempts": 11}, "max_attempts: "),
        ({"max_attempts": 1.5}, "max_attempts: "),
    ],
    ids=str,
)
async def test_a_wrong_field_of_a_task_that_may_wait_is_named(node: Node, fields: dict[str, Any], error: str) -> None:
    async with rest(node) as api:
        answer = await api.post("/api/dispatch", json=BODY | fields)
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(error)
    assert await node.state.sessions.page(client_id=None, limit=10) == []


async def test_a_task_may_wait_for_a_device_that_was_never_here(make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    async with rest(here) as api:
        answer = await api.post("/api/dispatch", json=BODY | {"queue_if_offline": True})
        assert answer.status_code == 200
        sid = answer.json()["session_id"]
    await state_is(there, sid, SessionState.CREATED)
    async with Device(there, features=OURS) as device:
        command, _ = await device.next_commands()
        device.answer(command, OK)
        await state_is(here, sid, SessionState.COMPLETED)


async def test_a_task_that_waited_too_long_has_timed_out(node: Node) -> None:
    async with rest(node) as api:
        answer = await api.post("/api/dispatch", json=BODY | {"queue_if_offline": True, "ttl_s": 0.2})
        sid = answer.json()["session_id"]
    await state_is(node, sid, SessionState.TIMED_OUT)
    assert (await _found(node, sid)).error == "The device did not connect in time to take the task"
    async with Device(node) as late:
        assert (await late.ask(type="heartbeat")).type == "heartbeat"
        assert [late.count(kind) for kind in ("task", "command", "task_end")] == [0, 0, 0], "it never was its task"


async def test_a_task_that_waits_has_its_whole_time_once_its_device_is_there(node: Node) -> None:
    async with rest(node) as api:
        body = BODY | {"queue_if_offline": True, "ttl_s": 100, "timeout_s": 50}
        sid = (await api.post("/api/dispatch", json=body)).json()["session_id"]
    session = await _found(node, sid)
    assert session.deadline_ms - session.created_ms == 150_000
    assert session.queue_until_ms == session.created_ms + 100_000


async def test_a_task_that_waits_outlives_a_visit_of_its_device_that_did_not_take_it(node: Node) -> None:
    """And keeps the time and the attempts that it was given."""
    async with rest(node) as api:
        body = BODY | {"queue_if_offline": True, "ttl_s": 100, "max_attempts": 3}
        sid = (await api.post("/api/dispatch", json=body)).json()["session_id"]
    before = await _found(node, sid)
    registration = a_registration("device-1", node.node_id)
    await node.state.clients.register(registration)
    left = await node.state.clients.leave("device-1", registration.connection_id)
    assert left.sessions == [sid]
    departures: Suspensions = node.gateway.disconnect._suspensions
    await departures.end("device-1", left.sessions)
    after = await _found(node, sid)
    assert (after.state, after.attempts, after.queue_until_ms) == (SessionState.CREATED, 1, before.queue_until_ms)
    assert len(await node.state.session_creator.waiting("device-1", but=())) == 1


# -- trying again ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("attempts", [1, 2])
async def test_a_task_whose_device_left_before_it_took_it_is_tried_again_if_it_may(
    make_node: MakeNode, attempts: int
) -> None:
    node = await make_node(echo_wait_s=60.0)
    device = await Device(node, features=()).__aenter__()
    sid = await dispatch(node, max_attempts=attempts)
    await next_of(device, "task")
    await state_is(node, sid, SessionState.DISPATCHED)
    await device.close()
    if attempts == 1:
        await state_is(node, sid, SessionState.CANCELLED)
        return
    await state_is(node, sid, SessionState.CREATED)
    async with Device(node, features=OURS) as back:
        command, _ = await back.next_commands()
        back.answer(command, OK, OK)
        await state_is(node, sid, SessionState.COMPLETED)
    assert (await _found(node, sid)).attempts == 2


async def test_a_task_that_was_begun_is_not_tried_again(node: Node) -> None:
    device = await Device(node).__aenter__()
    sid = await dispatch(node, max_attempts=5)
    await device.next_commands()
    await device.close()
    await state_is(node, sid, SessionState.CANCELLED)


async def test_a_device_that_works_on_its_own_is_not_sent_a_task_twice(node: Node) -> None:
    """It may be at work from the moment on that it got it."""
    device = await Device(node, features=("autonomous",)).__aenter__()
    sid = await dispatch(node, commands=None, max_attempts=5)
    await next_of(device, "task")
    await state_is(node, sid, SessionState.DISPATCHED)
    await device.close()
    await state_is(node, sid, SessionState.CANCELLED)


async def test_a_task_that_is_tried_again_and_finds_no_device_times_out(node: Node) -> None:
    device = await Device(node, features=()).__aenter__()
    node.sessions.runner._echo_wait_s = 60.0
    sid = await dispatch(node, max_attempts=2, timeout_s=3.0)
    await next_of(device, "task")
    await state_is(node, sid, SessionState.DISPATCHED)
    await device.close()
    await state_is(node, sid, SessionState.TIMED_OUT)


# -- what goes wrong in between --------------------------------------------------------------------------------------
async def test_redis_going_away_in_the_midst_of_a_departure_leaves_nobody_unsettled(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await Device(node).__aenter__()
    sid = await dispatch(node)
    await device.next_commands()
    await end_session(node.state, sid, SessionState.CANCELLED, end_id="by somebody who died then")

    async def away(*_: object, **__: object) -> None:
        raise StateUnavailable("Redis cannot be reached")

    monkeypatch.setattr(node.state.inbox, "settle", away)
    await device.close()
    await until(lambda: node.gateway.disconnect.settled, "everybody is settled")


async def test_a_node_that_was_taken_for_dead_looks_into_the_inboxes_of_the_clients_it_claims(
    make_node: MakeNode,
) -> None:
    """While nobody held them, tasks were accepted for them, and nobody was told."""
    frozen, other = await make_node(), await make_node()
    async with Device(frozen, features=OURS) as device:
        assert (await other.state.clients.reap("device-1", frozen.node_id, away_s=60)).held
        sid = await dispatch(other)
        await frozen.state.nodes.release(frozen.node_id)
        command, _ = await device.next_commands()
        device.answer(command, OK, OK)
        await state_is(other, sid, SessionState.COMPLETED)


async def test_of_many_nodes_that_look_one_ends_an_absence(make_node: MakeNode) -> None:
    nodes = [await make_node(reconnect_grace_s=0.3) for _ in range(3)]
    device = await Device(nodes[0], features=OURS).__aenter__()
    sid = await dispatch(nodes[1])
    await device.next_commands()
    await device.cut()
    await state_is(nodes[2], sid, SessionState.CANCELLED)

    async def forgotten() -> bool:
        return bool(await nodes[0].state.connection.command("ZCARD", nodes[0].state.keys.due()) == 0)

    await until(forgotten, "nothing is due any more")
    events = [e.facts["event"] for e in await nodes[0].state.sessions.events(sid)]
    assert events.count("ended") == 1
    ended = [n.metrics.registry.get_sample_value("aip_sessions_ended_total", {"state": "cancelled"}) for n in nodes]
    assert sum(e or 0 for e in ended) == 1


async def test_an_entry_of_a_client_that_is_back_is_forgotten(node: Node) -> None:
    async with Device(node):
        await node.state.delay_queue.add(DueKind.CLIENT, "device-1", 0)

        async def forgotten() -> bool:
            return bool(await node.state.connection.command("ZCARD", node.state.keys.due()) == 0)

        await until(forgotten, "it is not due any more")
        assert await node.state.clients.online_ids() == ["device-1"]


async def test_an_end_that_comes_long_after_the_end_tells_nobody_again(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What marks a message as posted is gone by then."""
    monkeypatch.setattr("node.sessions.service.TOLD_WITHIN_S", 0.2)
    monkeypatch.setattr("node.sessions.service.SURELY_TOLD_S", 0.0)
    node = await make_node()
    async with Device(node, features=OURS) as device:
        boss = await _boss(node)
        commands = {"commands": BODY["commands"]}
        boss.send(type="task", client_type="constellation", session_id="s1", request="x", metadata=commands)
        command, _ = await device.next_commands()
        device.answer(command, OK)
        while (await boss.receive()).type != "task_end":
            pass
        mark = f"end:s1:{(await _found(node, 's1')).end_id}"
        assert await node.state.connection.command("DEL", node.state.keys.posted("boss@device-1", mark)) == 1
        async with rest(node) as api:
            assert (await api.post("/api/sessions/s1/cancel")).json()["cancelled"] is False
        await node.state.delay_queue.add(DueKind.CLIENT, "device-1", 0.5)

        async def worked_off() -> bool:
            return bool(await node.state.connection.command("ZCARD", node.state.keys.due()) == 0)

        await until(worked_off, "nothing is due any more")
        assert (await boss.ask(type="heartbeat")).type == "heartbeat"
        assert boss.count("task_end") == 1
        await boss.close()
