"""A selector is chosen by its sender: whatever it holds, and however many devices there are, others are served."""

from collections.abc import AsyncIterator

import pytest

from node.app import Node
from shared_state.clients import Registration
from tests.support.asgi import Device, rest
from tests.support.loop_watch import MOST_GAP_S, LoopWatch
from tests.support.records import a_registration

DEVICES = 20_000


def _listed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many devices as a node may hold are online."""
    registrations = [a_registration(f"build-host-{number:05d}") for number in range(DEVICES)]

    async def online_parts() -> AsyncIterator[list[Registration]]:
        for start in range(0, DEVICES, 64):
            yield registrations[start : start + 64]

    async def online() -> list[Registration]:
        return registrations

    monkeypatch.setattr(node.state.clients, "online_parts", online_parts)
    monkeypatch.setattr(node.state.clients, "online", online)


def _attack(pattern: str, count: int) -> dict[str, object]:
    # Each is another pattern, so that no cache helps.
    patterns = [f"{pattern}{number:03d}" for number in range(count)]
    return {"selector": {"client_ids": patterns}, "request": "do it"}


@pytest.mark.parametrize("pattern", ["[a-z]*?" * 250, "[a-z]*?" * 36], ids=["too long", "too many"])
async def test_a_thousand_patterns_are_refused_at_once(node: Node, pattern: str) -> None:
    async with Device(node), rest(node) as api, LoopWatch() as watch:
        answer = await api.post("/api/dispatch/batch", json=_attack(pattern, 1000))
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("selector.client_ids")
    assert watch.longest_gap_s < MOST_GAP_S


async def test_the_worst_patterns_on_many_devices_leave_the_loop_to_others(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    _listed(node, monkeypatch)
    async with rest(node) as api, LoopWatch() as watch:
        answer = await api.post("/api/dispatch/batch", json=_attack("[a-z]*?" * 30, 64), timeout=300)
    assert answer.status_code == 404, answer.text
    assert watch.longest_gap_s < MOST_GAP_S


async def test_a_thousand_ids_on_many_devices_leave_the_loop_to_others(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    _listed(node, monkeypatch)
    names = [f"nobody-{number}" for number in range(999)]
    async with rest(node) as api, LoopWatch() as watch:
        body = {"selector": {"client_ids": [*names, "build-host-00007"]}, "request": "do it", "planner": "device"}
        answer = await api.post("/api/dispatch/batch", json=body, timeout=300)
    assert answer.status_code == 202, answer.text
    assert answer.json()["expected"] == 1000
    assert watch.longest_gap_s < MOST_GAP_S
