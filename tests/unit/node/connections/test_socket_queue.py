"""The queue before a socket: in order, bounded, and silent once the socket is closing."""

import asyncio

import orjson
import pytest

from aip_cluster.protocol import ServerMessage, ServerMessageType
from node.connections.connection import Connection, Message
from node.serving.close_codes import Close
from node.telemetry.metrics import Metrics
from tests.support.wait import until


class Peer:
    """The far end: reads only as far as it is let."""

    def __init__(self, *, reads: bool = True) -> None:
        self.received: list[Message] = []
        self.asked = 0
        self._may_read = asyncio.Semaphore(0)
        self._reads = reads
        self.broken = False

    async def send(self, message: Message) -> None:
        self.asked += 1
        if self.broken:
            raise ConnectionResetError
        if not self._reads:
            await self._may_read.acquire()
        self.received.append(message)

    def read(self, count: int) -> None:
        for _ in range(count):
            self._may_read.release()

    @property
    def texts(self) -> list[str]:
        return [m["text"] for m in self.received if m["type"] == "websocket.send"]

    @property
    def closes(self) -> list[tuple[int, str]]:
        return [(m["code"], m["reason"]) for m in self.received if m["type"] == "websocket.close"]


def _socket(peer: Peer, bound: int = 1_000_000) -> Connection:
    return Connection(peer.send, metrics=Metrics(), queue_bound=bound)


async def test_frames_are_sent_in_order() -> None:
    peer = Peer()
    socket = _socket(peer)
    for i in range(500):
        socket.send_raw(b"%d" % i)
        if i % 100 == 0:
            await asyncio.sleep(0)
    await socket.flushed()
    assert peer.texts == [str(i) for i in range(500)]


async def test_sending_never_waits_for_the_reader() -> None:
    peer = Peer(reads=False)
    socket = _socket(peer)
    for i in range(100):
        socket.send_raw(b"%d" % i)
    assert peer.received == []
    peer.read(100)
    await socket.flushed()
    assert len(peer.texts) == 100


async def test_a_message_gets_an_id_and_a_time_of_its_own() -> None:
    peer = Peer()
    socket = _socket(peer)
    socket.send(ServerMessage(type=ServerMessageType.HEARTBEAT))
    socket.send(ServerMessage(type=ServerMessageType.HEARTBEAT, response_id="mine", timestamp="then"))
    await socket.flushed()
    first, second = (orjson.loads(t) for t in peer.texts)
    assert len(first["response_id"]) == 36
    assert first["timestamp"].endswith("+00:00")
    assert (second["response_id"], second["timestamp"]) == ("mine", "then")


async def test_a_reader_that_is_too_slow_is_closed_with_its_own_code() -> None:
    peer = Peer(reads=False)
    socket = _socket(peer, bound=1_000)
    socket.send_raw(b"x" * 400)
    await until(lambda: peer.asked == 1, "the first frame is on its way")
    socket.send_raw(b"y" * 400)
    before = socket.closing
    socket.send_raw(b"z" * 400)
    assert (before, socket.closing) == (None, Close.SLOW_CONSUMER)
    peer.read(10)
    await socket.flushed()
    assert peer.texts == ["x" * 400], "what did not fit waits in the inbox, not here"
    assert peer.closes == [(4100, "too slow in reading, reconnect")]


async def test_one_frame_over_the_bound_closes_too() -> None:
    peer = Peer()
    socket = _socket(peer, bound=100)
    socket.send_raw(b"x" * 101)
    await socket.flushed()
    assert peer.closes == [(4100, "too slow in reading, reconnect")]


@pytest.mark.parametrize("letter", ["x", "ü", "设", "😀"], ids=ascii)
async def test_a_reader_that_keeps_up_is_never_closed(letter: str) -> None:
    """Also when the queue is never quite empty: what was read counts in bytes, as what was queued does."""
    peer = Peer(reads=False)
    frame = (letter * 100).encode()
    socket = _socket(peer, bound=3 * len(frame))
    socket.send_raw(frame)
    for i in range(30):
        socket.send_raw(frame)
        peer.read(1)
        await until(lambda i=i: len(peer.received) == i + 1, "a frame is read")
        assert socket.closing is None, f"after {i + 1} frames"
    peer.read(1)
    await socket.flushed()
    assert peer.texts == [letter * 100] * 31


async def test_what_was_queued_before_a_close_is_sent_before_it() -> None:
    peer = Peer()
    socket = _socket(peer)
    socket.send_raw(b"last words")
    socket.close(Close.DUPLICATE_ID)
    await socket.flushed()
    assert [m["type"] for m in peer.received] == ["websocket.send", "websocket.close"]
    assert peer.closes == [(4009, "the client id is already registered")]


async def test_after_a_close_nothing_is_sent_and_the_first_reason_stands() -> None:
    peer = Peer()
    socket = _socket(peer)
    socket.close(Close.LOST_REGISTRATION)
    socket.close(Close.LOST_REGISTRATION)
    socket.send_raw(b"late")
    socket.send_error("late")
    await socket.flushed()
    socket.send_raw(b"later still")
    await socket.flushed()
    assert peer.texts == []
    assert peer.closes == [(4101, "the registration was lost, reconnect")]


async def test_a_close_while_a_frame_is_on_its_way_follows_it() -> None:
    peer = Peer(reads=False)
    socket = _socket(peer)
    socket.send_raw(b"1")
    await until(lambda: peer.asked == 1, "the frame is on its way")
    socket.send_raw(b"2")
    socket.close(Close.LOST_REGISTRATION)
    peer.read(10)
    await socket.flushed()
    assert peer.texts == ["1", "2"]
    assert len(peer.closes) == 1


async def test_a_peer_that_is_gone_ends_the_sending_quietly() -> None:
    peer = Peer()
    peer.broken = True
    socket = _socket(peer)
    for _ in range(10):
        socket.send_raw(b"x")
    await socket.flushed()
    assert socket.closing is Close.UNAVAILABLE
    socket.send_raw(b"x")
    await socket.flushed()
    assert peer.asked == 1


async def test_an_abandoned_socket_sends_no_more() -> None:
    peer = Peer(reads=False)
    socket = _socket(peer)
    socket.send_raw(b"x")
    await until(lambda: peer.asked == 1, "the frame is on its way")
    socket.abandon()
    peer.read(10)
    await socket.flushed()
    assert peer.received == []


async def test_with_nothing_to_send_there_is_nothing_to_wait_for() -> None:
    socket = _socket(Peer())
    await socket.flushed()
    socket.abandon()


def test_close_codes_say_whether_to_come_back() -> None:
    """1012 and 1013 are registered; from 4100 on: at once; below: after mending what the reason says."""
    codes = {c.name: c.value.code for c in Close}
    assert codes == {
        "RESTARTING": 1012,
        "UNAVAILABLE": 1013,
        "NOT_REGISTERED_IN_TIME": 4001,
        "BAD_REGISTRATION": 4002,
        "DUPLICATE_ID": 4009,
        "SLOW_CONSUMER": 4100,
        "LOST_REGISTRATION": 4101,
        "TAKEN_OVER": 4102,
        "TOO_MANY_MESSAGES": 4103,
        "MESSAGE_TOO_SLOW": 4104,
    }
    assert len({c.value.label for c in Close}) == len(Close)
    assert all(len(c.value.text.encode()) <= 123 for c in Close), "what a close frame can hold"
