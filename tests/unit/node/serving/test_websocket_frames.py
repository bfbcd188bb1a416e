"""A socket's frames: whatever comes, in whatever pieces, is told as websockets' own protocol would have told it."""

import asyncio
import struct
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from node.serving.websocket_protocol import WebSocketProtocol
from tests.support.connections import Transport, open_socket
from tests.support.wait import until
from tests.support.websocket_streams import by_websockets, frame

LARGEST = 70_000

STREAMS = {
    "texts": frame(b"one") + frame(b"") + frame("ünï".encode()) + frame(b"x" * 126) + frame(b"y" * 300),
    "a long one": frame(b"before") + frame(b"z" * 66_000) + frame(b"after"),
    "long fragments": frame(b"a" * 30_000, 0x01) + frame(b"b" * 39_000, 0x00) + frame(b"c", 0x80) + frame(b"after"),
    "a long one of long characters": frame("漢".encode() * 22_000) + frame("漢".encode() * 23_000) + frame(b"after"),
    "a long one that is no UTF-8": frame(b"before") + frame(b"z" * 65_536 + b"\xff" + b"z") + frame(b"after"),
    "a long one that ends amid a character": frame(b"before") + frame(b"z" * 65_536 + b"\xe6") + frame(b"after"),
    "long bytes": frame(b"\x00\xff" * 33_000, 0x82) + frame(b"after"),
    "fragments": frame(b"a", 0x01) + frame(b"", 0x00) + frame(b"ping", 0x89) + frame(b"b", 0x80) + frame(b"after"),
    "bytes": frame(b"one") + frame(b"\x00\xff", 0x82) + frame(b"two"),
    "a text in the midst of fragments": frame(b"a", 0x01) + frame(b"b") + frame(b"after"),
    "not masked": frame(b"one") + frame(b"two", masked=False) + frame(b"after"),
    "a continuation of nothing": frame(b"one") + frame(b"two", 0x80) + frame(b"after"),
    "a long ping": frame(b"one") + frame(b"x" * 126, 0x89) + frame(b"after"),
    "a ping in pieces": frame(b"one") + frame(b"x", 0x09) + frame(b"after"),
    "a reserved bit": frame(b"one") + frame(b"two", 0xC1) + frame(b"after"),
    "an unknown opcode": frame(b"one") + frame(b"two", 0x83) + frame(b"after"),
    "no UTF-8": frame(b"one") + frame(b"\xff\xfe") + frame(b"after"),
    "a goodbye": frame(b"one") + frame(struct.pack("!H", 1000) + b"bye", 0x88) + frame(b"after"),
}


class Heard:
    """An application that notes what it is told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.at_once: list[str] = []
        # What it has to wait for, if anything.
        self.busy = asyncio.Event()
        self.busy.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while not self.messages or self.messages[-1]["type"] != "websocket.disconnect":
            self.messages.append(await receive())
            await self.busy.wait()

    def hear(self, message: dict[str, Any]) -> bool:
        """Takes what is not for later."""
        if message["text"].startswith("later"):
            return False
        self.at_once.append(message["text"])
        return True


async def _open(application: Heard) -> tuple[Transport, WebSocketProtocol]:
    transport = await open_socket(application, ws_max_size=LARGEST)
    return transport, transport.protocol


async def _told(stream: bytes, piece: int) -> tuple[list[Message], bytes]:
    """What the application hears of a stream that comes in pieces of that size, and what the peer is sent."""
    application = Heard()
    transport, protocol = await _open(application)
    for start in range(0, len(stream), piece):
        protocol.data_received(stream[start : start + piece])
    protocol.connection_lost(None)
    await until(lambda: "websocket.disconnect" in {m["type"] for m in application.messages}, "told of the end")
    return application.messages, transport.written


@pytest.mark.parametrize("name", STREAMS)
async def test_whatever_comes_is_told_as_by_websockets(name: str) -> None:
    stream = STREAMS[name]
    expected = [(kind, said) for kind, said in by_websockets(stream) if kind in {"text", "bytes", "end"}]
    for piece in (*range(1, 17), len(stream)) if len(stream) < 1_000 else (4_096, 8_192, len(stream)):
        messages, written = await _told(stream, piece)
        told = [(k, m[k]) for m in messages for k in ("text", "bytes") if k in m]
        end = messages[-1]["code"]
        assert [*told, *([("end", end)] if end != 1005 else [])] == expected, f"in pieces of {piece}"
        assert (frame(end.to_bytes(2), 0x88, masked=False)[2:] in written) is (end != 1005)


@pytest.mark.parametrize("piece", [1_000, 8_192, 200_000])
@pytest.mark.parametrize("fragments", [1, 3])
async def test_a_message_that_is_too_long_is_refused_by_its_head(piece: int, fragments: int) -> None:
    part = frame(b"z" * 35_000, 0x01) + frame(b"z" * 35_000, 0x00) if fragments == 3 else b""
    last = frame(b"z", 0x80) if fragments == 3 else frame(b"z" * (LARGEST + 1))
    stream = frame(b"before") + part + last
    told, written = await _told(stream + frame(b"after"), piece)
    reason = f"a message may have {LARGEST} bytes at most"
    assert told == [
        {"type": "websocket.receive", "text": "before"},
        {"type": "websocket.disconnect", "code": 1009, "reason": reason, "aip.announced_bytes": LARGEST + 1},
    ]
    assert written == frame(struct.pack("!H", 1009) + reason.encode(), 0x88, masked=False)
    # Nothing but the head of what breaks the bound had to come.
    head = len(frame(b"before") + part) + (6 if fragments == 3 else 14)
    assert await _told(stream[:head], piece) == (told, written)


async def test_who_listens_hears_at_once_and_in_order() -> None:
    application = Heard()
    _, protocol = await _open(application)
    protocol.hear = application.hear
    await asyncio.sleep(0)
    protocol.data_received(frame(b"one") + frame(b"two"))
    assert application.at_once == ["one", "two"]
    # From here on the application has something to wait for: what comes meanwhile comes after it.
    application.busy.clear()
    protocol.data_received(frame(b"later one") + frame(b"behind it") + frame(b"last"))
    protocol.data_received(frame(b"the very last"))
    assert application.at_once == ["one", "two"]
    application.busy.set()
    await until(lambda: len(application.messages) == 4, "all told")
    assert [m["text"] for m in application.messages] == ["later one", "behind it", "last", "the very last"]
    await asyncio.sleep(0.01)
    protocol.data_received(frame(b"at once again"))
    assert application.at_once == ["one", "two", "at once again"]
    protocol.connection_lost(None)


async def test_nothing_is_read_while_something_waits_to_be_taken() -> None:
    application = Heard()
    transport, protocol = await _open(application)
    protocol.hear = application.hear
    await asyncio.sleep(0)
    reading = []
    for text in (b"at once", b"later"):
        protocol.data_received(frame(text))
        reading.append(transport.reading)
    assert reading == [True, False]
    await until(lambda: transport.reading, "taken")
    protocol.connection_lost(None)
