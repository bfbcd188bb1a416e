"""Inboxes: what is posted stays, in order, until it is taken; and there is a bound."""

import asyncio

import pytest

from aip_cluster.protocol.ids import now_ms
from shared_state import State, inbox
from shared_state.errors import InboxFull, NotRegistered, TooManySessions
from shared_state.keys import new_session_id
from tests.support.backends import Backend
from tests.support.records import a_registration, a_session, ref_of
from tests.support.wait import until


@pytest.fixture
async def state(backend: Backend) -> State:
    """`device-1` is registered on `node-a`."""
    state = backend.state(lease_ttl_s=60.0)
    await state.clients.register(a_registration())
    return state


async def test_messages_are_read_in_the_order_in_which_they_were_posted(state: State) -> None:
    for i in range(10):
        await state.inbox.post("device-1", b"%d" % i)
    assert [e.message for e in await state.inbox.read("device-1")] == [b"%d" % i for i in range(10)]


async def test_any_bytes_come_back_unchanged(state: State) -> None:
    message = bytes(range(256)) + "frame\nwith ünïcode\r\n".encode()
    await state.inbox.post("device-1", message)
    assert [e.message for e in await state.inbox.read("device-1")] == [message]


async def test_reading_goes_on_behind_an_entry(state: State) -> None:
    for i in range(3):
        await state.inbox.post("device-1", b"%d" % i)
    first = (await state.inbox.read("device-1"))[0]
    assert [e.message for e in await state.inbox.read("device-1", after=first.entry_id)] == [b"1", b"2"]


async def test_a_long_inbox_is_read_in_parts(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "READ", 4)
    for i in range(10):
        await state.inbox.post("device-1", b"%d" % i)
    found, after = [], ""
    while part := await state.inbox.read("device-1", after=after):
        assert len(part) <= 4
        found += [e.message for e in part]
        after = part[-1].entry_id
    assert found == [b"%d" % i for i in range(10)]


async def test_reading_removes_nothing(state: State) -> None:
    await state.inbox.post("device-1", b"once")
    assert await state.inbox.read("device-1") == await state.inbox.read("device-1") != []


async def test_what_was_taken_is_gone_and_the_rest_stays(state: State) -> None:
    posted = [await state.inbox.post("device-1", b"%d" % i) for i in range(3)]
    await state.inbox.take("device-1", posted[1].entry_id)
    await state.inbox.take("device-1", posted[1].entry_id)
    assert [e.message for e in await state.inbox.read("device-1")] == [b"0", b"2"]


async def test_the_answer_names_the_node_and_how_many_heard(state: State) -> None:
    posted = await state.inbox.post("device-1", b"x")
    assert posted.node_id == "node-a"
    assert posted.receivers == 0
    assert [e.entry_id for e in await state.inbox.read("device-1")] == [posted.entry_id]


async def test_a_message_with_an_id_is_stored_once_however_often_it_is_posted(state: State) -> None:
    """The answer to the first call may have been lost."""
    first = await state.inbox.post("device-1", b"x", message_id="m1")
    again = await state.inbox.post("device-1", b"x", message_id="m1")
    await state.inbox.post("device-1", b"y", message_id="m2")
    assert first.entry_id
    assert (again.node_id, again.entry_id) == ("node-a", "")
    assert [e.message for e in await state.inbox.read("device-1")] == [b"x", b"y"]


async def test_a_message_that_starts_a_session_is_stored_once_also_after_it_was_taken(state: State) -> None:
    session = a_session()
    first = await state.inbox.post("device-1", b"task", session=ref_of(session))
    await state.inbox.take("device-1", first.entry_id)
    await state.inbox.settle("device-1", session.session_id)
    await state.inbox.post("device-1", b"task", session=ref_of(session))
    assert await state.inbox.read("device-1") == []


async def test_a_refused_message_may_be_posted_again(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "INBOX_BOUND", 0)
    with pytest.raises(InboxFull):
        await state.inbox.post("device-1", b"x", message_id="m1")
    monkeypatch.setattr(inbox, "INBOX_BOUND", 10)
    await state.inbox.post("device-1", b"x", message_id="m1")
    assert len(await state.inbox.read("device-1")) == 1


async def test_for_a_client_that_is_not_registered_nothing_is_stored(backend: Backend) -> None:
    state = backend.state()
    session = a_session()
    with pytest.raises(NotRegistered, match="'device-1' is not online"):
        await state.inbox.post("device-1", b"x", session=ref_of(session))
    keys = (state.keys.inbox, state.keys.active, state.keys.client_sessions)
    for key in keys:
        assert await state.connection.command("EXISTS", key("device-1")) == 0


async def test_a_full_inbox_takes_nothing(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "INBOX_BOUND", 3)
    for i in range(3):
        await state.inbox.post("device-1", b"%d" % i)
    session = a_session()
    with pytest.raises(InboxFull, match="has 3 messages waiting"):
        await state.inbox.post("device-1", b"more", session=ref_of(session))
    assert len(await state.inbox.read("device-1")) == 3
    assert await state.connection.command("EXISTS", state.keys.active("device-1")) == 0


async def test_there_is_room_again_once_something_was_taken(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "INBOX_BOUND", 1)
    first = await state.inbox.post("device-1", b"1")
    await state.inbox.take("device-1", first.entry_id)
    await state.inbox.post("device-1", b"2")
    assert [e.message for e in await state.inbox.read("device-1")] == [b"2"]


async def test_however_many_post_at_once_the_bound_holds(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "INBOX_BOUND", 10)
    outcomes = await asyncio.gather(*(state.inbox.post("device-1", b"x") for _ in range(100)), return_exceptions=True)
    assert sum(isinstance(o, InboxFull) for o in outcomes) == 90
    assert len(await state.inbox.read("device-1")) == 10


async def test_a_session_that_was_settled_is_no_longer_under_way(state: State) -> None:
    first, second = a_session(), a_session()
    for session in (first, second):
        await state.inbox.post("device-1", b"task", session=ref_of(session))
    await state.inbox.settle("device-1", first.session_id)
    await state.inbox.settle("device-1", first.session_id)
    registration = await state.clients.find("device-1")
    assert registration is not None
    assert (await state.clients.leave("device-1", registration.connection_id)).sessions == [second.session_id]


@pytest.mark.parametrize("how", ["posted", "started"])
async def test_the_newest_sessions_of_a_client_are_kept_up_to_a_bound(backend: Backend, how: str) -> None:
    """The oldest go, a tenth of the bound at once."""
    state = backend.state(max_sessions_per_device=2_000)
    await state.clients.register(a_registration("device-1"))
    key = state.keys.client_sessions("device-1")
    old = [f"{n:015d}:old-{n}" for n in range(1_099)]
    await state.connection.command("RPUSH", key, *old)
    sessions = [a_session(new_session_id("device-1"), created_ms=5_000 + i) for i in range(2)]
    for session, length in zip(sessions, (1_100, 1_000), strict=True):
        if how == "posted":
            await state.inbox.post("device-1", b"task", session=ref_of(session))
        else:
            await state.session_creator.start(session)
        assert await state.connection.command("LLEN", key) == length
    page = await state.sessions.page(client_id="device-1", limit=1_000)
    ids = [place.partition(":")[2] for place, _ in page]
    assert ids[:3] == [sessions[1].session_id, sessions[0].session_id, "old-1098"]
    assert ids[-1] == "old-101"


async def test_the_node_that_holds_the_client_hears_of_the_message(state: State) -> None:
    heard: list[tuple[bytes, bytes]] = []

    async def on_gap() -> None:
        pass

    bus = state.bus("node-a")
    await bus.start(on_frame=lambda kind, rest: heard.append((kind, rest)), on_gap=on_gap, wait_s=30)
    try:
        posted = await state.inbox.post("device-1", b"several\nlines")
        assert posted.receivers == 1
        await until(lambda: heard, "the wake-up is heard")
    finally:
        await bus.close()
    if state.connection.one_server:
        assert heard == [(b"inbox", b"device-1\n" + posted.entry_id.encode() + b"\nseveral\nlines")]
    else:
        assert heard == [(b"inbox", b"device-1\n\n")], "a Cluster's wake-up says only that there is something"


async def test_a_device_takes_only_so_many_sessions_at_a_time(backend: Backend) -> None:
    state = backend.state(max_sessions_per_device=2)
    await state.clients.register(a_registration())
    first, second, third = a_session("s1"), a_session("s2"), a_session("s3")
    for session in (first, second):
        await state.inbox.post("device-1", b"task", session=ref_of(session))
    with pytest.raises(TooManySessions, match="2 sessions under way") as refused:
        await state.inbox.post("device-1", b"task", session=ref_of(third))
    assert refused.value.of_device
    assert len(await state.inbox.read("device-1")) == 2, "nothing is stored"
    await state.inbox.post("device-1", b"task", session=ref_of(second))  # the same once more is no third
    await state.inbox.post("device-1", b"frame")  # what starts no session is not bounded by this
    await state.inbox.settle("device-1", "s1")
    await state.inbox.post("device-1", b"task", session=ref_of(third))


async def test_a_session_whose_deadline_is_over_takes_no_room(backend: Backend) -> None:
    """Its end may have been lost with its node: it must not keep the device from work until the set expires."""
    state = backend.state(max_sessions_per_device=1)
    await state.clients.register(a_registration())
    now = now_ms()
    await state.inbox.post("device-1", b"task", session=ref_of(a_session("s1", created_ms=now - 90_000)))
    await state.inbox.post("device-1", b"task", session=ref_of(a_session("s2", created_ms=now)))
