"""The cluster's clock: that of Redis, wherever the machine's stands."""

import pytest

from aip_cluster.protocol.ids import now_ms
from shared_state import State, nodes
from shared_state import clock as clock_module
from shared_state.clock import Clock
from shared_state.keys import new_session_id
from shared_state.sessions import Behind, SessionState
from tests.support.backends import Backend
from tests.support.records import a_registration, a_session, end_session

HOUR_MS = 3_600_000


def test_before_it_was_compared_it_is_that_of_the_machine() -> None:
    clock = Clock()
    assert clock.ahead_ms == 0
    assert clock.at(5) == 5


@pytest.mark.parametrize(("redis_ms", "ahead_ms"), [(1_000, 0), (1_010, 0), (1_005, 0), (2_005, 1_000), (5, -1_000)])
def test_what_the_way_there_and_back_explains_is_no_difference(redis_ms: int, ahead_ms: int) -> None:
    clock = Clock()
    clock.compare(redis_ms, asked_ms=1_000, answered_ms=1_010)
    assert clock.ahead_ms == ahead_ms
    assert clock.at(7) == 7 + ahead_ms


def test_the_last_comparison_counts() -> None:
    clock = Clock()
    clock.compare(9_000, asked_ms=1_000, answered_ms=1_000)
    clock.compare(1_000, asked_ms=1_000, answered_ms=1_000)
    assert clock.ahead_ms == 0


async def test_a_machine_whose_clock_is_wrong_notes_the_time_of_redis(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes, one of them an hour slow: what both note of one session stands in order."""
    right, slow = backend.state(), backend.state()
    await right.clients.register(a_registration())
    session = a_session(new_session_id("device-1"))
    await right.session_creator.start(session)
    await right.sessions.advance(session.session_id, SessionState.DISPATCHED, event={"event": "dispatched"})
    for module in (clock_module, nodes):
        monkeypatch.setattr(module, "now_ms", lambda: now_ms() - HOUR_MS)
    await slow.nodes.renew("node-b", {})
    assert abs(slow.clock.ahead_ms - HOUR_MS) < HOUR_MS / 2
    began = Behind({"started_ms": now_ms() - HOUR_MS}, [(now_ms() - HOUR_MS, b'{"event":"began"}')])
    await end_session(slow, session.session_id, behind=began)
    found = await right.sessions.find(session.session_id)
    assert found is not None
    assert found.dispatched_ms is not None
    assert found.started_ms is not None
    assert found.ended_ms is not None
    assert all(abs(at - session.created_ms) < HOUR_MS / 2 for at in (found.started_ms, found.ended_ms))
    events = await right.sessions.events(session.session_id)
    assert [e.facts["event"] for e in events] == ["created", "dispatched", "began", "ended"]
    assert all(abs(e.at_ms - session.created_ms) < HOUR_MS / 2 for e in events)


async def test_a_renewal_sets_it(state: State) -> None:
    state.clock.compare(HOUR_MS, asked_ms=0, answered_ms=0)
    await state.nodes.renew("node-a", {})
    assert abs(state.clock.ahead_ms) < HOUR_MS / 2
