"""What a node knows of those it sends tasks to: only as long as Redis agrees, and not without bound."""

import httpx
import pytest

from node.app import Node
from node.sessions.directory import Directory
from shared_state.clients import Clients
from tests.support.asgi import Device, rest
from tests.support.records import a_registration

TASK = {"client_id": "device-1", "request": "do it", "commands": [{"tool_name": "echo"}]}


async def _sent(api: httpx.AsyncClient, **changes: object) -> httpx.Response:
    return await api.post("/api/dispatch", json=TASK | changes)


async def test_a_device_is_looked_up_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    genuine = Clients.find

    async def find(self: Clients, client_id: str) -> object:
        asked.append(client_id)
        return await genuine(self, client_id)

    monkeypatch.setattr(Clients, "find", find)
    async with Device(node), rest(node) as api:
        for _ in range(5):
            assert (await _sent(api)).status_code == 200
    assert asked == ["device-1"]


async def test_a_device_that_came_back_as_another_is_known_anew(node: Node) -> None:
    async with rest(node) as api:
        async with Device(node, features=("autonomous",)):
            answer = await _sent(api, commands=None)
            assert answer.status_code == 200
        async with Device(node):
            # It works on its own no more: nobody can run a task in words.
            assert (await _sent(api, commands=None)).status_code == 422
            assert (await _sent(api)).status_code == 200
        assert (await _sent(api)).status_code == 404


async def test_whoever_was_asked_for_longest_ago_is_forgotten(node: Node) -> None:
    directory = Directory(node.state.clients, bound=2)
    for n in range(3):
        await node.state.clients.register(a_registration(f"device-{n}", node.node_id))
        await directory.look_up(f"device-{n}")
    assert directory.known("device-0") is None
    assert directory.known("device-1") is not None
    assert directory.known("device-2") is not None
    directory.forget("device-2")
    assert directory.known("device-2") is None
    assert await directory.look_up("nobody") is None
    assert directory.known("nobody") is None
