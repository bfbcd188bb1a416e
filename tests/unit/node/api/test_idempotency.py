"""`Idempotency-Key`: the same request again is the same dispatch, and nothing that was refused is remembered."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from node.app import Node
from node.sessions.node_load import NodeLoad
from shared_state.errors import StateUnavailable, TooManySessions
from shared_state.session_create import SessionCreator
from shared_state.sessions import SessionState
from tests.support.asgi import Device, rest
from tests.unit.node.conftest import MakeNode

TASK = {"client_id": "device-1", "request": "do it", "commands": [{"tool_name": "t"}]}
Send = Callable[..., Any]


async def _post(api: httpx.AsyncClient, key: str = "k", **changes: Any) -> httpx.Response:
    return await api.post("/api/dispatch", json=TASK | changes, headers={"Idempotency-Key": key})


def _outcomes(node: Node, outcome: str) -> float:
    return node.metrics.registry.get_sample_value("aip_dispatches_total", {"outcome": outcome}) or 0.0


async def _sessions(api: httpx.AsyncClient) -> list[str]:
    return [s["session_id"] for s in (await api.get("/api/sessions")).json()["sessions"]]


async def test_the_same_request_again_is_answered_as_before(make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    async with Device(here), rest(here) as api, rest(there) as other:
        first, second, third = await _post(api), await _post(other), await _post(api)
        assert first.status_code == second.status_code == 200
        assert first.content == second.content == third.content
        assert "Idempotency-Replayed" not in first.headers
        assert second.headers["Idempotency-Replayed"] == third.headers["Idempotency-Replayed"] == "true"
        assert await _sessions(api) == [first.json()["session_id"]]
        assert (_outcomes(here, "accepted"), _outcomes(here, "replayed"), _outcomes(there, "replayed")) == (1, 1, 1)


async def test_without_a_key_the_same_request_is_another_dispatch(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node):
        answers = [(await api.post("/api/dispatch", json=TASK)).json()["session_id"] for _ in range(2)]
        assert len(set(answers)) == 2


async def test_fields_in_another_order_are_the_same_request(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node):
        first = await _post(api)
        turned = dict(reversed(TASK.items()))
        second = await api.post("/api/dispatch", json=turned, headers={"Idempotency-Key": "k"})
        assert second.content == first.content


async def test_another_body_under_the_key_is_refused(node: Node, api: httpx.AsyncClient) -> None:
    async with Device(node):
        await _post(api)
        other = await _post(api, request="something else")
        assert other.status_code == 409
        assert other.json()["detail"] == "Idempotency-Key: the key was used with another request"
        assert len(await _sessions(api)) == 1
        assert _outcomes(node, "key_reused") == 1


async def test_of_many_at_once_one_dispatches_and_all_are_told_the_same(make_node: MakeNode) -> None:
    nodes = [await make_node() for _ in range(3)]
    async with Device(nodes[0]), rest(nodes[0]) as a, rest(nodes[1]) as b, rest(nodes[2]) as c:
        answers = await asyncio.gather(*(_post((a, b, c)[i % 3]) for i in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert await _sessions(a) == [answers[0].json()["session_id"]]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä", "a\tb"])
async def test_a_key_that_is_none_is_refused_and_the_header_named(api: httpx.AsyncClient, key: str) -> None:
    answer = await api.post("/api/dispatch", json=TASK, headers={b"Idempotency-Key": key.encode()})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("Idempotency-Key:")


async def test_two_keys_are_refused(api: httpx.AsyncClient) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert (await api.post("/api/dispatch", json=TASK, headers=headers)).status_code == 400


@pytest.mark.parametrize("key", ["x", "x" * 255, "!~{}*:", "01a1f8d4-0000"])
async def test_keys_may_be_any_visible_ascii(node: Node, api: httpx.AsyncClient, key: str) -> None:
    async with Device(node):
        assert (await _post(api, key)).status_code == 200
        assert (await _post(api, key)).headers["Idempotency-Replayed"] == "true"


async def test_a_refusal_is_not_remembered(node: Node, api: httpx.AsyncClient) -> None:
    """Not online, no planner: both may be otherwise when the request is sent again."""
    assert (await _post(api)).status_code == 404
    assert (await _post(api)).status_code == 404
    async with Device(node):
        accepted = await _post(api)
        assert accepted.status_code == 200
        assert "Idempotency-Replayed" not in accepted.headers
        assert (await _post(api, "k2", commands=None)).status_code == 422
        assert (await _post(api, "k2")).status_code == 200, "and frees the key"


async def test_a_key_belongs_to_the_credential_that_it_came_with_and_neither_is_stored(make_node: MakeNode) -> None:
    shown = {"X-API-Key": "first-secret", "Idempotency-Key": "key-of-mine"}
    one, other = await make_node(api_key="first-secret"), await make_node(api_key="second-secret")
    async with Device(one, headers=[(b"x-api-key", b"first-secret")]), rest(one) as api, rest(other) as elsewhere:
        mine = await api.post("/api/dispatch", json=TASK, headers=shown)
        theirs = await elsewhere.post("/api/dispatch", json=TASK, headers=shown | {"X-API-Key": "second-secret"})
        assert (mine.status_code, theirs.status_code) == (200, 200)
        assert mine.json()["session_id"] != theirs.json()["session_id"]
    names = await one.state.connection.command("KEYS", "*idempotency*")
    assert len(names) == 2
    stored = [names, *[await one.state.connection.command("HGETALL", name) for name in names]]
    assert not any(secret in str(stored) for secret in ("first-secret", "second-secret", "key-of-mine"))


async def test_after_an_unknown_outcome_the_repetition_goes_on_with_the_same_session(
    node: Node, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task was sent, and the answer of Redis was lost, twice: 503. Sent again, it is the same task."""
    genuine: Send = SessionCreator.start

    async def lost(self: SessionCreator, *args: Any, **options: Any) -> Any:
        await genuine(self, *args, **options)
        raise StateUnavailable("Redis did not answer in time")

    async with Device(node) as device:
        monkeypatch.setattr(SessionCreator, "start", lost)
        assert (await _post(api)).status_code == 503
        monkeypatch.setattr(SessionCreator, "start", genuine)
        again = await _post(api)
        assert again.status_code == 200
        command, _ = await device.next_commands()
        assert command.session_id == again.json()["session_id"]
        assert await _sessions(api) == [command.session_id]


async def test_an_attempt_that_got_nowhere_is_made_again_under_the_same_ids(
    node: Node, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine: Send = SessionCreator.start

    async def away(self: SessionCreator, *args: Any, **options: Any) -> Any:
        raise StateUnavailable("Redis cannot be reached")

    async with Device(node):
        monkeypatch.setattr(SessionCreator, "start", away)
        refused = await _post(api)
        assert refused.status_code == 503
        monkeypatch.setattr(SessionCreator, "start", genuine)
        again = await _post(api)
        assert again.status_code == 200
        assert again.json()["session_id"] in refused.json()["detail"]


async def test_a_session_whose_device_left_before_the_repetition_is_the_answer_and_has_ended(
    node: Node, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been sent: a second session under the key could be a second task."""
    genuine: Send = SessionCreator.start

    async def lost(self: SessionCreator, *args: Any, **options: Any) -> Any:
        await genuine(self, *args, **options)
        raise StateUnavailable("Redis cannot be reached")

    async with Device(node):
        monkeypatch.setattr(SessionCreator, "start", lost)
        assert (await _post(api)).status_code == 503
        monkeypatch.setattr(SessionCreator, "start", genuine)
    again = await _post(api)
    assert again.status_code == 200
    session = (await api.get(f"/api/sessions/{again.json()['session_id']}")).json()
    assert session["state"] == SessionState.CANCELLED
    assert (await _post(api)).headers["Idempotency-Replayed"] == "true"


async def test_while_the_first_is_at_work_a_second_waits_a_while_and_is_then_told_to_come_back(
    node: Node, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine: Send = SessionCreator.start
    begun, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow(self: SessionCreator, *args: Any, **options: Any) -> Any:
        begun.set()
        await may_go_on.wait()
        return await genuine(self, *args, **options)

    async with Device(node):
        monkeypatch.setattr(SessionCreator, "start", slow)
        first = asyncio.create_task(_post(api))
        await begun.wait()
        second = await _post(api)
        assert (second.status_code, second.headers["Retry-After"]) == (409, "1")
        assert "at work" in second.json()["detail"]
        assert _outcomes(node, "key_busy") == 1
        third = asyncio.create_task(_post(api))
        may_go_on.set()
        assert (await third).content == (await first).content


async def test_a_repetition_that_meets_a_limit_takes_nothing_back(
    node: Node, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That there is no room now says nothing about what the first try left: it is gone on with later."""
    genuine: Send = SessionCreator.start
    check = NodeLoad.check

    async def lost(self: SessionCreator, *args: Any, **options: Any) -> Any:
        raise StateUnavailable("Redis did not answer in time")

    def full(self: NodeLoad, node_id: str) -> None:
        raise TooManySessions("full", of_device=False)

    async with Device(node):
        monkeypatch.setattr(SessionCreator, "start", lost)
        refused = await _post(api)
        monkeypatch.setattr(SessionCreator, "start", genuine)
        monkeypatch.setattr(NodeLoad, "check", full)
        assert (await _post(api)).status_code == 429
        monkeypatch.setattr(NodeLoad, "check", check)
        accepted = await _post(api)
        assert accepted.status_code == 200
        assert accepted.json()["session_id"] in refused.json()["detail"]
        session = (await api.get(f"/api/sessions/{accepted.json()['session_id']}")).json()
        assert session["state"] != SessionState.CANCELLED
