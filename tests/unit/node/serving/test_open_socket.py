"""What a node keeps of a socket that is open: little, since there are thousands of them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from node.serving.websocket_protocol import WebSocketProtocol
from tests.support.connections import Transport, open_socket
from tests.support.wait import until


class Application:
    """Accepts one socket, and notes what comes."""

    def __init__(self) -> None:
        self.scope: Scope = {}
        self.asked_for = ""
        self.heard: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.asked_for = scope, scope["path"]
        await receive()
        await send({"type": "websocket.accept"})
        while not self.heard or self.heard[-1]["type"] != "websocket.disconnect":
            self.heard.append(await receive())


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
async def transport(application: Application) -> AsyncIterator[Transport]:
    """A connection over which a socket was opened."""
    transport = await open_socket(application)
    yield transport
    transport.protocol.connection_lost(None)
    await until(lambda: "websocket.disconnect" in {m["type"] for m in application.heard}, "told of the end")


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A masked frame; a mask of zeros changes nothing."""
    return bytes((0x80 | opcode, 0x80 | len(payload))) + b"\0\0\0\0" + payload


async def test_an_open_socket_keeps_nothing_of_its_handshake(transport: Transport, application: Application) -> None:
    protocol = transport.protocol
    assert isinstance(protocol, WebSocketProtocol)
    assert application.asked_for == "/ws"
    assert application.scope == {}
    assert not hasattr(protocol, "request")
    assert not hasattr(protocol, "response")


async def test_an_open_socket_needs_no_dictionary(transport: Transport) -> None:
    """If uvicorn has a new attribute: name it in `WebSocketProtocol.__slots__`."""
    assert vars(transport.protocol) == {}


async def test_messages_arrive_in_order_and_reading_goes_on_once_all_are_taken(
    transport: Transport, application: Application
) -> None:
    transport.protocol.data_received(frame(b"one") + frame(b"two") + frame(b"three"))
    assert not transport.reading
    await until(lambda: len(application.heard) == 3, "all heard")
    assert [message["text"] for message in application.heard] == ["one", "two", "three"]
    assert transport.reading


async def test_whoever_sends_waits_while_the_peer_does_not_read(transport: Transport) -> None:
    protocol = transport.protocol
    written = transport.written
    protocol.pause_writing()
    sending = asyncio.create_task(protocol.send({"type": "websocket.send", "text": "hello"}))
    await asyncio.sleep(0.01)
    assert transport.written == written
    protocol.resume_writing()
    await sending
    assert transport.written == written + b"\x81\x05hello"
