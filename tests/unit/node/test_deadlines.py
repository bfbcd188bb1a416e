"""Deadlines: each is met once, none of a session that is over, and nothing wakes up where there are none."""

import asyncio
from types import SimpleNamespace
from typing import Any

from node.sessions.deadlines import TICK_S, Deadlines
from tests.support.wait import until


def _session(name: str) -> Any:
    return SimpleNamespace(session_id=name, due_tick=0)


async def test_each_deadline_is_met_once_and_not_before_its_time() -> None:
    loop, met = asyncio.get_running_loop(), []
    began_at = loop.time()
    deadlines = Deadlines(lambda session: met.append((session.session_id, loop.time() - began_at)))
    times = {"past": -5.0, "now": 0.0, "soon": 0.03, "too": 0.03, "later": 0.1}
    for name, left_s in times.items():
        deadlines.add(_session(name), left_s)
    await until(lambda: len(met) == len(times), "all met")
    await asyncio.sleep(3 * TICK_S)
    assert sorted(name for name, _ in met) == sorted(times)
    assert [name for name, at_s in met if at_s < times[name]] == []


async def test_a_session_that_is_over_has_no_deadline() -> None:
    met: list[str] = []
    deadlines = Deadlines(lambda session: met.append(session.session_id))
    over, other = _session("over"), _session("other")
    deadlines.add(over, 0.03)
    deadlines.add(other, 0.03)
    deadlines.remove(over)
    deadlines.remove(over)
    await until(lambda: met != [], "the other's is met")
    deadlines.remove(other)
    assert met == ["other"]


async def test_nothing_wakes_up_without_sessions_and_the_next_is_met_again() -> None:
    met: list[str] = []
    deadlines = Deadlines(lambda session: met.append(session.session_id))
    first = _session("first")
    deadlines.add(first, 60.0)
    deadlines.remove(first)
    await until(lambda: deadlines._timer is None, "nothing is waited for")
    await asyncio.sleep(2 * TICK_S)
    deadlines.add(_session("second"), 0.01)
    await until(lambda: met == ["second"], "met")
