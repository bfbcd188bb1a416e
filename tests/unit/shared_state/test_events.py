"""The cluster's events: written behind, in order, capped, and never in anybody's way."""

import pytest

from shared_state import State, events
from shared_state.errors import StateUnavailable
from tests.support.backends import Backend
from tests.support.wait import until


async def test_events_are_written_in_the_background(state: State) -> None:
    state.events.start()
    state.events.append("client_registered", client_id="d1")

    async def written() -> bool:
        return len(await state.events.tail()) == 1

    await until(written, "the event is written")
    (event,) = await state.events.tail()
    assert event.pop("at_ms") > 0
    assert event == {"event": "client_registered", "client_id": "d1"}


async def test_the_newest_come_first_and_no_more_than_asked_for(state: State) -> None:
    for i in range(5):
        state.events.append("x", i=i)
    await state.events.close()
    assert [e["i"] for e in await state.events.tail(3)] == [4, 3, 2]


async def test_closing_writes_what_waits(state: State) -> None:
    state.events.start()
    for i in range(events.BATCH + 1):
        state.events.append("x", i=i)
    await state.events.close()
    assert [e["i"] for e in await state.events.tail(1_000)] == list(range(events.BATCH, -1, -1))


async def test_the_oldest_are_dropped_and_counted_when_too_many_wait(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BUFFER_BOUND", 3)
    for i in range(5):
        state.events.append("x", i=i)
    await state.events.close()
    assert [e["i"] for e in await state.events.tail()] == [4, 3, 2]
    assert state.events.dropped == 2


async def test_the_stream_is_capped(real_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    state = real_backend.state()
    monkeypatch.setattr(events, "STREAM_BOUND", 100)
    monkeypatch.setattr(events, "BATCH", 1)
    for i in range(1_000):
        state.events.append("x", i=i)
    await state.events.close()
    # Redis trims by whole nodes of its stream, 100 entries each.
    assert await state.connection.command("XLEN", state.keys.events()) <= 200
    assert (await state.events.tail(1))[0]["i"] == 999


async def test_events_that_cannot_be_written_are_dropped_counted_and_stop_nobody(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = state.connection.command

    async def away() -> None:
        raise StateUnavailable("Redis cannot be reached")

    with monkeypatch.context() as broken:
        broken.setattr(state.connection, "command", lambda *_: away())
        state.events.start()
        state.events.append("lost")
        await until(lambda: state.events.dropped == 1, "the event is dropped")
    assert state.connection.command == genuine
    state.events.append("kept")

    async def written() -> bool:
        return [e["event"] for e in await state.events.tail()] == ["kept"]

    await until(written, "events are written again")
