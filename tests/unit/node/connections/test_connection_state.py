"""The states of a connection: every input in every state."""

import pytest

from node.connections.connection_state import ConnectionState

S = ConnectionState
# What changes a state; every other input leaves it as it is.
CHANGES = {
    (S.NEW, "registering"): S.REGISTERING,
    (S.REGISTERING, "refused"): S.NEW,
    (S.REGISTERING, "reading"): S.READING,
    (S.READING, "woken"): S.READING_AGAIN,
    (S.READING, "missed"): S.READING_AGAIN,
    (S.READING, "read"): S.LIVE,
    (S.READING, "failed"): S.STALLED,
    (S.READING_AGAIN, "reading"): S.READING,
    (S.READING_AGAIN, "failed"): S.STALLED,
    (S.LIVE, "reading"): S.READING,
    (S.LIVE, "missed"): S.STALLED,
    (S.LIVE, "failed"): S.STALLED,
    (S.STALLED, "reading"): S.READING,
    **{(state, "gone"): S.GONE for state in S},
}
INPUTS = ("registering", "refused", "reading", "woken", "read", "missed", "failed", "gone")


@pytest.mark.parametrize("happens", INPUTS)
@pytest.mark.parametrize("state", S, ids=lambda s: s.name)
def test_transition(state: ConnectionState, happens: str) -> None:
    assert getattr(state, happens)() is CHANGES.get((state, happens), state)


def test_a_connection_that_is_gone_never_comes_back() -> None:
    """An inbox that was being read when the client left does not make the connection live."""
    assert {getattr(S.GONE, happens)() for happens in INPUTS} == {S.GONE}


def test_what_may_be_stored_is_taken_back_and_what_is_registered_is_kept_up() -> None:
    assert {s for s in S if s.may_be_stored} == {S.REGISTERING, S.READING, S.READING_AGAIN, S.LIVE, S.STALLED}
    assert {s for s in S if s.is_registered} == {S.READING, S.READING_AGAIN, S.LIVE, S.STALLED}
