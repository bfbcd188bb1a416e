"""The wire of the load generator: frames and answers in whatever pieces they come."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devtools.bench.connections import Address, HttpConnection
from devtools.bench.fleet import AipDevice
from devtools.bench.websocket import Refused, WebSocket, encode_frame, parse_frame

HERE = Address("127.0.0.1", 1)
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


class _Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class _Heard(WebSocket):
    def __init__(self) -> None:
        super().__init__(HERE, "/ws")
        self.heard: list[bytes] = []
        self.ends: list[Exception] = []

    def on_text(self, message: bytes) -> None:
        self.heard.append(message)

    def on_end(self, error: Exception) -> None:
        self.ends.append(error)


def _unmasked(payload: bytes, opcode: int = 1, *, final: bool = True) -> bytes:
    """A frame as servers send it, by taking the mask out of ours."""
    masked = encode_frame(payload, opcode)
    head = len(masked) - len(payload)
    return bytes([masked[0] & (0xFF if final else 0x7F), masked[1] & 0x7F]) + masked[2 : head - 4] + payload


def _connected() -> tuple[_Heard, _Transport]:
    socket, transport = _Heard(), _Transport()
    socket.connection_made(transport)
    return socket, transport


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_a_frame_of_any_size_comes_back(size: int) -> None:
    payload = b"x" * size
    frame = parse_frame(_unmasked(payload), 0)
    assert frame is not None
    assert (frame.final, frame.opcode, frame.payload) == (True, 1, payload)
    assert frame.end == len(_unmasked(payload))
    assert parse_frame(_unmasked(payload)[:-1], 0) is None


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 200))
def test_messages_come_whole_from_any_pieces(messages: list[bytes], piece: int) -> None:
    socket, _ = _connected()
    stream = UPGRADED + b"".join(_unmasked(message) for message in messages)
    for start in range(0, len(stream), piece):
        socket.data_received(stream[start : start + piece])
    assert socket.heard == messages


def test_fragments_are_one_message() -> None:
    socket, _ = _connected()
    socket.data_received(UPGRADED + _unmasked(b"one ", final=False) + _unmasked(b"message", 0))
    assert socket.heard == [b"one message"]


def test_a_ping_is_answered_with_what_it_said() -> None:
    socket, transport = _connected()
    transport.written = b""
    socket.data_received(UPGRADED + _unmasked(b"beat", 9))
    assert transport.written == encode_frame(b"beat", 10)


def test_who_is_refused_learns_when_to_come_back() -> None:
    socket, transport = _connected()
    socket.data_received(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n\r\n{}")
    assert isinstance(socket.ends[0], Refused)
    assert socket.ends[0].retry_after_s == 7
    assert transport.closed


def test_a_close_is_answered_and_told() -> None:
    socket, transport = _connected()
    socket.data_received(UPGRADED + _unmasked((1013).to_bytes(2, "big") + b"later", 8))
    assert "1013: later" in str(socket.ends[0])
    assert not socket.is_open
    assert transport.closed


@given(st.integers(1, 60))
def test_an_answer_comes_whole_from_any_pieces(piece: int) -> None:
    async def ask() -> tuple[int, bytes]:
        connection = HttpConnection(HERE)
        connection.connection_made(_Transport())
        waiting = connection.get("/x")
        stream = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nX: y\r\n\r\nhello"
        for start in range(0, len(stream), piece):
            connection.data_received(stream[start : start + piece])
        answer = await waiting
        return answer.status, answer.body

    assert asyncio.run(ask()) == (404, b"hello")


async def test_a_connection_that_breaks_fails_its_request() -> None:
    connection = HttpConnection(HERE)
    connection.connection_made(_Transport())
    waiting = connection.get("/x")
    connection.connection_lost(None)
    with pytest.raises(ConnectionError):
        await waiting


async def test_a_device_registers_notes_its_task_and_ends_it() -> None:
    came: list[int] = []
    note: Callable[[int, int], None] = lambda number, _: came.append(number)  # noqa: E731
    device, transport = AipDevice(HERE, "d-1", note), _Transport()
    device.connection_made(transport)
    device.data_received(UPGRADED + _unmasked(b'{"type":"heartbeat","status":"ok"}'))
    await device.registered
    transport.written = b""
    task = b'{"type":"task","user_request":"bench#17# do","session_id":"s","task_name":"t","response_id":"r"}'
    device.data_received(_unmasked(task))
    assert came == [17]
    assert b'"status":"completed"' in transport.written
    assert b'"prev_response_id":"r"' in transport.written
