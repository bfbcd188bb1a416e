"""Deadlines: each is met once, none early, and none of a session that is over."""

from types import SimpleNamespace
from typing import Any

from node.sessions.deadlines import TICK_S, Deadlines

NOW_S = 1000.0


def _session(name: str) -> Any:
    return SimpleNamespace(session_id=name, due_tick=0)


def _met(deadlines: Deadlines, now_s: float) -> list[str]:
    return [session.session_id for session in deadlines.due(now_s)]


def test_each_deadline_is_met_once_not_early_and_a_tick_late_at_most() -> None:
    deadlines, met = Deadlines(), dict[str, float]()
    times = {"past": -5.0, "now": 0.0, "soon": 0.03, "too": 0.03, "later": 0.1}
    for name, left_s in times.items():
        deadlines.add(_session(name), NOW_S, left_s)
    for step in range(1, 20):
        at_s = step * TICK_S / 2
        for name in _met(deadlines, NOW_S + at_s):
            assert name not in met
            met[name] = at_s
    assert sorted(met) == sorted(times)
    assert [name for name, at_s in met.items() if at_s < times[name]] == []
    assert [name for name, at_s in met.items() if at_s > max(times[name], 0) + 2 * TICK_S] == []
    assert not deadlines


def test_a_session_that_is_over_has_no_deadline() -> None:
    deadlines = Deadlines()
    over, other = _session("over"), _session("other")
    deadlines.add(over, NOW_S, 0.03)
    deadlines.add(other, NOW_S, 0.03)
    deadlines.remove(over)
    deadlines.remove(over)
    assert _met(deadlines, NOW_S + 1) == ["other"]
    deadlines.remove(other)


def test_a_session_does_not_remove_another_of_its_name() -> None:
    deadlines = Deadlines()
    first, second = _session("same"), _session("same")
    deadlines.add(first, NOW_S, 0.03)
    deadlines.add(second, NOW_S, 0.03)
    deadlines.remove(first)
    assert deadlines.due(NOW_S + 1) == [second]


def test_a_loop_that_was_held_up_for_an_hour_finds_all_that_is_due_in_order() -> None:
    deadlines = Deadlines()
    for name, left_s in {"b": 60.0, "a": 1.0, "c": 3599.0, "later": 4000.0}.items():
        deadlines.add(_session(name), NOW_S, left_s)
    assert _met(deadlines, NOW_S + 3600) == ["a", "b", "c"]
    assert _met(deadlines, NOW_S + 3601) == []
    assert _met(deadlines, NOW_S + 4001) == ["later"]


def test_after_a_pause_without_sessions_the_next_is_met_again() -> None:
    deadlines = Deadlines()
    first = _session("first")
    deadlines.add(first, NOW_S, 60.0)
    deadlines.remove(first)
    assert not deadlines
    deadlines.add(_session("second"), NOW_S + 500, 0.01)
    assert _met(deadlines, NOW_S + 500.1) == ["second"]
