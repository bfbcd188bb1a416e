"""What a node keeps of a socket that is open: little, since there are thousands of them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from node.serving.websocket_protocol import Disconnected, State, WebSocketProtocol
from tests.support.connections import UPGRADE, Transport, connect, open_socket
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
    assert protocol.state is State.OPEN
    assert protocol._handshake is None
    assert protocol._scope is None


async def test_an_open_socket_needs_no_dictionary(transport: Transport) -> None:
    assert not hasattr(transport.protocol, "__dict__")


async def test_what_comes_before_the_answer_to_the_handshake_is_taken_after_it() -> None:
    application, go_on = Application(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await application(scope, receive, send)

    http, transport = connect(slow)
    http.data_received(UPGRADE)
    transport.protocol.data_received(frame(b"early"))
    assert (transport.reading, application.heard) == (False, [])
    go_on.set()
    await until(lambda: application.heard, "heard")
    assert application.heard[0]["text"] == "early"
    await until(lambda: transport.reading, "read on")
    transport.protocol.connection_lost(None)


async def test_a_socket_goes_forward_from_state_to_state(transport: Transport, application: Application) -> None:
    protocol = transport.protocol
    await protocol.send({"type": "websocket.close", "code": 4000, "reason": "enough"})
    assert (protocol.state, transport.closed) == (State.CLOSING, False)
    assert transport.written == b"\x88\x08\x0f\xa0enough"
    # What comes meanwhile is read past, and what is sent goes nowhere.
    protocol.data_received(frame(b"too late"))
    with pytest.raises(Disconnected):
        await protocol.send({"type": "websocket.send", "text": "too late"})
    assert not protocol.write_text(b"too late")
    await until(lambda: application.heard, "told of the end")
    assert [(m["type"], m.get("code")) for m in application.heard] == [("websocket.disconnect", 4000)]
    protocol.data_received(frame(b"\x0f\xa0", 8))
    assert (protocol.state, transport.closed) == (State.CLOSED, True)
    protocol.data_received(frame(b"behind the end", 8))
    assert transport.written == b"\x88\x08\x0f\xa0enough"


@pytest.mark.parametrize(
    ("events", "answer"),
    [
        ([{"type": "websocket.close"}], b"HTTP/1.1 403 Forbidden\r\n"),
        ([], b"HTTP/1.1 500 Internal Server Error\r\n"),
        (
            [
                {"type": "websocket.http.response.start", "status": 503, "headers": [(b"retry-after", b"1")]},
                {"type": "websocket.http.response.body", "body": b"not ", "more_body": True},
                {"type": "websocket.http.response.body", "body": b"now"},
            ],
            b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n",
        ),
    ],
)
async def test_a_handshake_is_answered_once_and_the_connection_ends(events: list[Message], answer: bytes) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        for event in events:
            await send(event)

    http, transport = connect(application)
    http.data_received(UPGRADE)
    await until(lambda: transport.closed, "closed")
    assert transport.written.startswith(answer)
    assert transport.written.count(b"HTTP/1.1") == 1
    assert transport.protocol.state is State.CLOSED
    transport.protocol.connection_lost(None)


async def test_a_server_that_stops_says_so(transport: Transport, application: Application) -> None:
    transport.protocol.shutdown()
    assert (transport.written, transport.closed) == (b"\x88\x02\x03\xf4", True)
    await until(lambda: application.heard, "told of the end")
    assert application.heard[0] == {"type": "websocket.disconnect", "code": 1012, "reason": ""}


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
