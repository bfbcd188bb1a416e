"""Sessions whose device breaks off and comes back, here or on another node: they go on, or end and say why."""

from collections.abc import Container
from typing import Any

import pytest

from node.app import Node
from node.sessions.resumption import NOT_REPEATABLE, STARTED_ANEW
from shared_state.errors import Fenced, StateUnavailable
from shared_state.inbox import Posted, task_message
from shared_state.sessions import Session, SessionState
from tests.support.asgi import Device, Socket, SocketClosed, rest
from tests.support.features import OURS, RESUMING
from tests.support.records import active_sessions
from tests.support.tasks import COMMANDS, GONE, OK, dispatch, next_of, state_is
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode


async def test_a_broken_socket_suspends_its_sessions_and_the_device_goes_on_with_them_on_another_node(
    make_node: MakeNode,
) -> None:
    here, there = await make_node(), await make_node()
    device = await Device(here, features=OURS).__aenter__()
    sid = await dispatch(here)
    command, _ = await device.next_commands()
    await device.cut()
    await state_is(there, sid, SessionState.SUSPENDED)
    async with Device(there, features=OURS) as back:
        again, actions = await back.next_commands()
        assert again.response_id == command.response_id, "the same command, to be recognised"
        assert [a.tool_name for a in actions] == ["one", "two"]
        back.answer(again, OK, OK)
        await state_is(here, sid, SessionState.COMPLETED)
        assert back.count("command") == 1
    events = [e.facts["event"] for e in await here.state.sessions.events(sid)]
    assert events == ["created", "dispatched", "commands", "suspended", "resumed", "results", "ended"]
    assert await here.state.sessions.journal(sid) == []


async def test_without_grace_the_same_broken_socket_cancels_its_sessions_at_once(make_node: MakeNode) -> None:
    node = await make_node(reconnect_grace_s=0)
    device = await Device(node, features=OURS).__aenter__()
    sid = await dispatch(node)
    await device.next_commands()
    await device.cut()
    await state_is(node, sid, SessionState.CANCELLED)
    found = await node.state.sessions.find(sid)
    assert found is not None
    assert found.error == GONE


async def test_results_that_the_device_kept_while_it_was_away_are_taken(make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    device = await Device(here, features=OURS).__aenter__()
    sid = await dispatch(here)
    command, _ = await device.next_commands()
    await device.cut()
    async with Device(there, features=OURS) as back:
        back.answer(command, OK, OK)
        await state_is(here, sid, SessionState.COMPLETED)


async def test_a_command_under_way_ends_the_session_of_a_device_that_does_not_recognise_repeats(
    make_node: MakeNode,
) -> None:
    node = await make_node()
    device = await Device(node).__aenter__()
    sid = await dispatch(node)
    await device.next_commands()
    await device.cut()
    async with Device(node) as back:
        await state_is(node, sid, SessionState.FAILED)
        end = await next_of(back, "task_end")
        assert (end.session_id, end.status, end.error) == (sid, "failed", NOT_REPEATABLE)
        assert back.count("command") == 0


async def test_a_device_that_was_started_anew_is_not_taken_for_the_one_that_remembers(make_node: MakeNode) -> None:
    """It lists `deduplicates`, but shows no token: its memory went with the process."""
    node = await make_node()
    device = await Device(node, features=RESUMING).__aenter__()
    assert device.token
    sid = await dispatch(node)
    await device.next_commands()
    await device.cut()
    async with Device(node, features=RESUMING) as anew:
        await state_is(node, sid, SessionState.FAILED)
        assert anew.count("command") == 0
    found = await node.state.sessions.find(sid)
    assert found is not None
    assert found.error == NOT_REPEATABLE


async def test_with_its_token_the_device_goes_on(make_node: MakeNode) -> None:
    node = await make_node()
    device = await Device(node, features=RESUMING).__aenter__()
    sid = await dispatch(node)
    command, _ = await device.next_commands()
    await device.cut()
    async with Device(node, features=RESUMING, token=device.token) as back:
        again, _ = await back.next_commands()
        assert again.response_id == command.response_id
        back.answer(again, OK, OK)
        await state_is(node, sid, SessionState.COMPLETED)


async def test_a_task_that_its_device_had_not_begun_is_sent_again_to_any_device(make_node: MakeNode) -> None:
    """Also to one that does not recognise repeats: nothing was carried out yet."""
    node = await make_node(echo_wait_s=60.0)
    device = await Device(node, features=()).__aenter__()
    sid = await dispatch(node, task_name="job")
    await next_of(device, "task")
    await state_is(node, sid, SessionState.DISPATCHED)
    await device.cut()
    await state_is(node, sid, SessionState.SUSPENDED)
    async with Device(node, features=()) as back:
        assert (await next_of(back, "task")).session_id == sid
        back.send(type="task", status="continue", session_id=None, task_name="job", request="do it")
        command, _ = await back.next_commands()
        back.answer(command, OK, OK)
        await state_is(node, sid, SessionState.COMPLETED)


async def test_a_device_that_works_on_its_own_goes_on_and_its_end_counts(make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    features = ("autonomous", *RESUMING)
    device = await Device(here, features=features).__aenter__()
    sid = await dispatch(here, commands=None)
    task = await next_of(device, "task")
    device.send(type="command_results", status="continue", session_id=sid, messages=["half way"])
    await state_is(here, sid, SessionState.RUNNING)
    await device.cut()
    await state_is(here, sid, SessionState.SUSPENDED)
    async with Device(there, features=features, token=device.token) as back:
        back.send(type="command_results", status="completed", prev_response_id=task.response_id, result={"n": 1})
        await state_is(here, sid, SessionState.COMPLETED)
        assert back.count("task") == 0, "it took the task before"


async def test_a_device_that_works_on_its_own_and_was_started_anew_has_forgotten_the_task(make_node: MakeNode) -> None:
    node = await make_node()
    features = ("autonomous", *RESUMING)
    device = await Device(node, features=features).__aenter__()
    sid = await dispatch(node, commands=None)
    device.send(type="command_results", status="continue", session_id=sid, messages=["half way"])
    await state_is(node, sid, SessionState.RUNNING)
    await device.cut()
    async with Device(node, features=features):
        await state_is(node, sid, SessionState.FAILED)
    found = await node.state.sessions.find(sid)
    assert found is not None
    assert found.error == STARTED_ANEW


@pytest.mark.parametrize("repeats", [True, False])
async def test_the_documents_form_goes_on_with_the_same_request_ids(make_node: MakeNode, *, repeats: bool) -> None:
    node = await make_node()
    features = OURS if repeats else ()
    device = await Device(node, features=features, aip_format="payload").__aenter__()
    sid = await dispatch(node)
    first = await device.next_payload()
    device.send(type="result", request_id=first["request_id"], payload={"status": "success", "data": 7})
    second = await device.next_payload()
    await device.cut()
    async with Device(node, features=features, aip_format="payload") as back:
        if not repeats:
            await state_is(node, sid, SessionState.FAILED)
            return
        # A step is one: what was answered of it is asked for again, and answered from the device's memory.
        for asked in (first, second):
            again = await back.next_payload()
            assert again["request_id"] == asked["request_id"]
            back.send(type="result", request_id=again["request_id"], payload={"status": "success", "data": 7})
        await state_is(node, sid, SessionState.COMPLETED)


async def test_a_task_that_was_left_in_the_inbox_after_it_was_begun_is_not_begun_again(make_node: MakeNode) -> None:
    """The socket broke before the inbox was told that the task had been taken."""
    node = await make_node()
    device = await Device(node, features=OURS).__aenter__()
    sid = await dispatch(node)
    command, _ = await device.next_commands()
    await device.cut()
    await state_is(node, sid, SessionState.SUSPENDED)
    await _leave_in_inbox(node, sid)
    async with Device(node, features=OURS) as back:
        again, _ = await back.next_commands()
        assert again.response_id == command.response_id, "another id would be carried out a second time"
        back.answer(again, OK, OK)
        await state_is(node, sid, SessionState.COMPLETED)

        async def empty() -> bool:
            return await node.state.inbox.read("device-1") == []

        await until(empty, "the task is off the inbox")


async def _leave_in_inbox(node: Node, session_id: str) -> None:
    session = await node.state.sessions.find(session_id)
    assert session is not None
    await node.state.inbox.post("device-1", task_message(session))


async def test_what_an_older_connection_still_drives_is_fenced_before_its_journal_is_read(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a step that the old node stores in between is planned, and carried out, twice."""
    here, there = await make_node(), await make_node()
    device = await Device(here, features=OURS).__aenter__()
    sid = await dispatch(here)
    await device.next_commands()
    await device.cut()
    await state_is(there, sid, SessionState.SUSPENDED)
    old = int(await here.state.connection.command("HGET", here.state.keys.session(sid), "generation"))
    genuine = there.state.sessions.journal
    refused: list[str] = []

    async def journal(session_id: str) -> list[dict[str, Any]]:
        # The old node, which does not know yet, at the worst moment.
        try:
            await here.state.sessions.advance(session_id, None, generation=old, journal=[{"act": {}}])
        except Fenced as exc:
            refused.append(str(exc))
        return await genuine(session_id)

    monkeypatch.setattr(there.state.sessions, "journal", journal)
    async with Device(there, features=OURS) as back:
        again, _ = await back.next_commands()
        back.answer(again, OK, OK)
        await state_is(here, sid, SessionState.COMPLETED)
    assert len(refused) == 1


async def test_a_task_counts_as_waiting_until_its_device_takes_it(node: Node) -> None:
    async def counted() -> list[object]:
        k = node.state.keys
        of_client = (k.waiting("device-1"), k.waiting_bytes("device-1"))
        keys = (*of_client, k.waiting_anywhere(), k.waiting_bytes_anywhere())
        return [key for key in keys if await node.state.connection.command("EXISTS", key)]

    async with rest(node) as api:
        body = {"client_id": "device-1", "request": "do it", "commands": COMMANDS, "queue_if_offline": True}
        assert (await api.post("/api/dispatch", json=body)).status_code == 200
        assert len(await counted()) == 4
        # One that is refused counts no more either.
        for _ in range(2):
            await api.post("/api/dispatch", json=body | {"task_name": "named"})
        sums = await node.state.connection.command("HGET", node.state.keys.waiting_bytes_anywhere(), "all")
        assert int(sums) < 3 * 2_000

        async with Device(node, features=OURS):

            async def none() -> bool:
                return await counted() == []

            await until(none, "nothing waits")
            # Its device is there: nothing is counted at all.
            assert (await api.post("/api/dispatch", json=body)).status_code == 200
            assert await counted() == []


async def test_a_socket_that_lost_its_client_in_the_midst_of_its_inbox_is_handed_nothing_more(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun on it would stay behind, and keep the task from the device's next socket on this node."""
    genuine = node.state.session_creator.waiting

    async def waiting(client_id: str, *, but: Container[str]) -> list[bytes]:
        orders = await genuine(client_id, but=but)
        if orders and (loser := node.gateway.hub.get("device-1")) is not None:
            node.gateway.disconnect.give_way(loser)
        return orders

    async with rest(node) as api:
        body = {"client_id": "device-1", "request": "do it", "commands": COMMANDS, "queue_if_offline": True}
        sid = (await api.post("/api/dispatch", json=body)).json()["session_id"]
    with monkeypatch.context() as racing:
        racing.setattr(node.state.session_creator, "waiting", waiting)
        loser = await Device(node, features=OURS).__aenter__()
        with pytest.raises(SocketClosed, match="4102"):
            await loser.receive()
        await loser.close()
    assert len(node.sessions.runner) == 0
    async with Device(node, features=OURS) as back:
        command, _ = await back.next_commands()
        back.answer(command, OK, OK)
        await state_is(node, sid, SessionState.COMPLETED)


async def test_a_constellation_that_takes_the_id_of_a_device_gets_none_of_its_tasks(make_node: MakeNode) -> None:
    node = await make_node()
    device = await Device(node, features=OURS).__aenter__()
    sid = await dispatch(node)
    await device.next_commands()
    await device.cut()
    async with Socket(node) as boss:
        answer = await boss.ask(type="register", client_id="device-1", client_type="constellation")
        assert answer.status == "ok"
        assert (await boss.ask(type="heartbeat")).type == "heartbeat"
        assert len(node.sessions.runner) == 0
    await state_is(node, sid, SessionState.CANCELLED)


async def test_a_session_whose_dispatch_was_lost_in_its_midst_is_looked_for_once(make_node: MakeNode) -> None:
    """Its task was posted, the session itself never stored: it must not count as active for ever."""
    node = await make_node()
    device = await Device(node, features=OURS).__aenter__()
    sid = await dispatch(node)
    await device.next_commands()
    await device.cut()
    await state_is(node, sid, SessionState.SUSPENDED)
    stored = await node.state.sessions.find(sid)
    assert stored is not None
    await node.state.sessions.discard(stored)
    assert await active_sessions(node.state, "device-1") == 1

    async def settled() -> object:
        return not await active_sessions(node.state, "device-1")

    async with Device(node, features=OURS):
        await until(settled, "the session counts as active no more")


async def test_no_command_is_sent_that_is_not_in_the_journal(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever takes the session over would plan it again, and the device carry it out twice."""
    genuine = node.state.sessions.advance
    refused: list[object] = []

    async def advance(session_id: str, state: SessionState | None, **rest: Any) -> SessionState:
        if rest.get("journal") and len(refused) < 2:
            refused.append(rest["journal"])
            assert device.count("command") == 0
            raise StateUnavailable("Redis cannot be reached")
        return await genuine(session_id, state, **rest)

    monkeypatch.setattr(node.state.sessions, "advance", advance)
    async with Device(node, features=OURS) as device:
        sid = await dispatch(node)
        command, _ = await device.next_commands()
        assert len(refused) == 2
        assert [e["act"]["response_id"] for e in await node.state.sessions.journal(sid)] == [command.response_id]
        device.answer(command, OK, OK)
        await state_is(node, sid, SessionState.COMPLETED)


@pytest.mark.parametrize("stored", [True, False], ids=["done", "not done"])
async def test_a_start_whose_answer_was_lost_is_repeated_and_begins_one_session(
    node: Node, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    genuine = node.state.session_creator.start
    tries: list[str] = []

    async def start(session: Session, **rest: Any) -> bool:
        tries.append(session.session_id)
        started = (stored or len(tries) > 1) and await genuine(session, **rest)
        if len(tries) == 1:
            raise StateUnavailable("Redis cannot be reached")
        return started

    monkeypatch.setattr(node.state.session_creator, "start", start)
    async with Device(node, features=OURS) as device:
        sid = await dispatch(node)
        assert tries == [sid, sid]
        command, _ = await device.next_commands()
        device.answer(command, OK, OK)
        await state_is(node, sid, SessionState.COMPLETED)
        assert device.count("task") == 1


async def test_whoever_asked_is_told_of_a_session_that_could_not_go_on_also_if_redis_breaks_off(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await Device(node).__aenter__()
    async with Socket(node) as boss:
        boss_id = {"client_id": "boss@device-1", "client_type": "constellation", "target_id": "device-1"}
        assert (await boss.ask(type="register", **boss_id)).status == "ok"
        boss.send(
            type="task", client_type="constellation", session_id="s1", request="x", metadata={"commands": COMMANDS}
        )
        await device.next_commands()
        await device.cut()
        genuine = node.state.inbox.post
        broken: list[str] = []

        async def post(client_id: str, *args: Any, **rest: Any) -> Posted:
            if client_id == "boss@device-1" and not broken:
                broken.append(client_id)
                raise StateUnavailable("Redis cannot be reached")
            return await genuine(client_id, *args, **rest)

        monkeypatch.setattr(node.state.inbox, "post", post)
        async with Device(node):
            while (end := await boss.receive()).type != "task_end":
                pass
            assert (end.session_id, end.error) == ("s1", NOT_REPEATABLE)
        assert broken
        assert boss.count("task_end") == 1
