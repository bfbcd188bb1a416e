"""The list of who is connected, with details and without; and the way in that sockets take."""

import httpx
from starlette.types import Message

from node.api.schemas import ClientsAnswer
from node.app import Node
from tests.support.asgi import Device, rest


async def test_a_list_with_details_says_of_each_client_what_its_own_page_says(
    node: Node, api: httpx.AsyncClient
) -> None:
    names = [f"device-{i:02}" for i in range(3)]
    async with Device(node, names[2]), Device(node, names[0]), Device(node, names[1]):
        listed = (await api.get("/api/clients?detail=1")).json()
        assert listed["online_clients"] == names
        assert listed["clients"] == [(await api.get(f"/api/clients/{name}")).json() for name in names]
        assert ClientsAnswer.model_validate(listed).model_dump(mode="json") == listed


async def test_nobody_connected_is_a_list_of_nobody(api: httpx.AsyncClient) -> None:
    assert (await api.get("/api/clients?detail=1")).json() == {"online_clients": [], "clients": []}
    assert (await api.get("/api/clients")).json() == {"online_clients": []}


async def test_a_list_longer_than_a_part_is_whole(node: Node, api: httpx.AsyncClient) -> None:
    names = [f"device-{i:03}" for i in range(60)]
    devices = [Device(node, name) for name in names]
    for device in devices:
        await device.__aenter__()
    listed = (await api.get("/api/clients?detail=1")).json()
    assert [client["client_id"] for client in listed["clients"]] == names
    for device in devices:
        await device.close()


async def test_a_socket_elsewhere_than_at_ws_is_not_let_in(node: Node) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/elsewhere", "raw_path": b"/elsewhere", "root_path": "", "scheme": "ws"}
    await node.app({**scope, "query_string": b"", "headers": [], "subprotocols": []}, receive, send)
    assert sent[0]["type"] == "websocket.http.response.start"
    assert sent[0]["status"] == 404


async def test_a_request_to_the_address_of_the_sockets_finds_nothing(node: Node) -> None:
    async with rest(node) as api:
        assert (await api.get("/ws")).status_code == 404
