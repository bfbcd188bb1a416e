"""What a node knows of those it sends tasks to: only as long as Redis agrees, and not without bound."""

import httpx
import pytest

from node.app import Node
from node.sessions.client_cache import ClientCache
from shared_state.clients import Clients
from tests.support.asgi import Device, rest
from tests.support.records import a_registration
from tests.unit.node.conftest import MakeNode

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


async def test_a_device_that_came_back_able_to_do_more_is_not_refused(node: Node) -> None:
    """A refusal by what was known of it would be repeated for ever: nothing else would look it up."""
    async with rest(node) as api:
        async with Device(node):
            assert (await _sent(api)).status_code == 200
            assert (await _sent(api, commands=None)).status_code == 422
        async with Device(node, features=("autonomous",)):
            assert (await _sent(api, commands=None)).status_code == 200


async def test_a_device_that_left_a_full_node_is_not_refused(make_node: MakeNode) -> None:
    """The limit of the node that it is on now is what counts."""
    full, other = await make_node(max_sessions_per_node=1), await make_node(max_sessions_per_node=1)
    async with rest(full) as api, Device(full, "busy") as busy:
        assert (await _sent(api, client_id="busy")).status_code == 200
        await busy.next_commands()
        async with Device(full):
            assert (await _sent(api)).status_code == 429
        async with Device(other):
            assert (await _sent(api)).status_code == 200


async def test_whoever_was_asked_for_longest_ago_is_forgotten(node: Node) -> None:
    directory = ClientCache(node.state.clients, bound=2)
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
