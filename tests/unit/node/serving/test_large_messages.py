"""Large messages on their way in: memory for them is bounded, shared in order, and free when their socket is gone."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from aip_cluster.protocol import ProtocolError
from aip_cluster.protocol.codec import decode_client_frame
from aip_cluster.protocol.envelope import envelope
from aip_cluster.protocol.errors import TooLarge
from aip_cluster.protocol.structure import PIECE_BYTES
from node.concurrency.parsing import Parsing
from node.serving import message_room
from node.serving.message_memory import Allowance
from node.serving.websocket_protocol import WebSocketProtocol
from tests.support.attacks import ATTACKS
from tests.support.connections import Transport, open_socket
from tests.support.loop_watch import MOST_GAP_S, LoopWatch
from tests.support.wait import until
from tests.support.websocket_streams import frame

KIB = 1024
LARGE = 300 * KIB


class Application:
    """Takes what comes, once it is let."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while not self.heard or self.heard[-1]["type"] != "websocket.disconnect":
            self.heard.append(await receive())
            await self.free.wait()

    @property
    def sizes(self) -> list[int]:
        return [len(m.get("text") or m.get("aip.large_text") or b"") for m in self.heard]


async def _open(application: Application, arriving: Allowance, **options: float) -> tuple[Transport, WebSocketProtocol]:
    transport = await open_socket(application, ws_max_size=KIB, arriving=arriving, **options)
    protocol: WebSocketProtocol = transport.protocol
    protocol.admit()
    return transport, protocol


async def test_a_large_text_comes_as_bytes_and_what_follows_comes_after_it() -> None:
    application, arriving = Application(), Allowance(100 * KIB * KIB)
    _, protocol = await _open(application, arriving)
    told: list[dict[str, object]] = []

    def hear(message: dict[str, object]) -> bool:
        told.append(message)
        return True

    protocol.hear = hear
    await asyncio.sleep(0)
    application.free.clear()
    protocol.data_received(frame(b"x" * LARGE) + frame(b"behind it"))
    await until(lambda: len(application.heard) == 1, "taken")
    protocol.data_received(frame(b"and more"))
    assert told == []
    assert arriving.used == LARGE
    application.free.set()
    await until(lambda: len(application.heard) == 3, "all taken")
    assert bytes(application.heard[0]["aip.large_text"]) == b"x" * LARGE
    assert [m["text"] for m in application.heard[1:]] == ["behind it", "and more"]
    await until(lambda: arriving.used == 0, "given back")
    protocol.connection_lost(None)


async def test_who_finds_no_memory_is_read_later_in_order_and_loses_nothing() -> None:
    arriving = Allowance(400 * KIB)
    applications = [Application() for _ in range(4)]
    sockets = [await _open(a, arriving, max_frame_bytes=400 * KIB) for a in applications]
    stream = frame(b"first") + frame(b"x" * LARGE) + frame(b"last")
    for _, protocol in sockets:
        protocol.data_received(stream[:50_000])
    await until(lambda: [a.sizes for a in applications] == [[5]] * 4, "what is small is taken")
    assert arriving.used == LARGE
    assert [t.reading for t, _ in sockets] == [True, False, False, False]
    # They get on one by one, in the order in which they came.
    for number, (transport, protocol) in enumerate(sockets):
        await _until_read(transport)
        assert arriving.used == LARGE
        assert [t.reading for t, _ in sockets[number + 1 :]] == [False] * (3 - number)
        protocol.data_received(stream[50_000:])
        await until(lambda: sum(a.sizes == [5, LARGE, 4] for a in applications) == number + 1, "all is there")  # noqa: B023
    await until(lambda: arriving.used == 0, "given back")
    for _, protocol in sockets:
        protocol.connection_lost(None)


async def _until_read(transport: Transport) -> None:
    await until(lambda: transport.reading, "read on")


@pytest.mark.parametrize("who", ["holds", "waits"])
async def test_memory_of_a_socket_that_is_gone_is_free(who: str) -> None:
    arriving = Allowance(400 * KIB)
    (_, holder), (_, waiter) = [await _open(Application(), arriving, max_frame_bytes=400 * KIB) for _ in range(2)]
    for protocol in (holder, waiter):
        protocol.data_received(frame(b"x" * LARGE)[:1000])
    gone, other = (holder, waiter) if who == "holds" else (waiter, holder)
    gone.connection_lost(None)
    await asyncio.sleep(0)
    assert arriving.used == LARGE
    other.connection_lost(None)
    assert arriving.used == 0


async def test_strangers_keep_nobody_who_is_known_waiting() -> None:
    arriving = Allowance(400 * KIB)
    application = Application()
    transport = await open_socket(application, ws_max_size=300 * KIB, arriving=arriving)
    stranger: WebSocketProtocol = transport.protocol
    stranger.data_received(frame(b"x" * LARGE)[:-1])
    theirs = stranger._bounds.arriving_unregistered
    assert (arriving.used, theirs.used) == (0, LARGE)
    stranger.data_received(frame(b"x" * LARGE)[-1:])
    await until(lambda: application.sizes == [LARGE], "it is there")
    stranger.admit()
    assert (arriving.used, theirs.used) == (0, 0)
    stranger.data_received(frame(b"x" * LARGE)[:-1])
    assert (arriving.used, theirs.used) == (LARGE, 0)
    stranger.connection_lost(None)
    assert (arriving.used, theirs.used) == (0, 0)


async def test_fragments_take_memory_for_all_that_may_come() -> None:
    arriving = Allowance(400 * KIB)
    application = Application()
    _, protocol = await _open(application, arriving, max_frame_bytes=400 * KIB)
    protocol.data_received(frame(b"x" * 60 * KIB, 0x01))
    assert arriving.used == 0
    protocol.data_received(frame(b"x" * 60 * KIB, 0x00))
    assert arriving.used == 400 * KIB
    protocol.data_received(frame(b"x" * 180 * KIB, 0x80))
    await until(lambda: application.sizes == [LARGE], "it is whole")
    protocol.connection_lost(None)
    assert arriving.used == 0


async def test_a_large_message_that_takes_too_long_gives_its_memory_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_room, "MESSAGE_BASE_S", 0.01)
    monkeypatch.setattr(message_room, "LEAST_BYTES_PER_S", 100_000 * KIB)
    application, arriving = Application(), Allowance(KIB * KIB)
    _, protocol = await _open(application, arriving, max_frame_bytes=KIB * KIB)
    protocol.data_received(frame(b"x" * LARGE)[:-1])
    await until(lambda: len(application.heard) == 1, "closed")
    assert application.heard[0]["code"] == 4104
    assert arriving.used == 0
    protocol.connection_lost(None)


async def test_a_peer_in_the_midst_of_a_large_message_is_not_silent() -> None:
    application = Application()
    transport, protocol = await _open(application, Allowance(100 * KIB * KIB))
    protocol.ping()
    stream = frame(b"x" * LARGE)
    protocol.data_received(stream[:1000])
    closed = []
    for _ in range(2):
        # After the first, nothing more comes.
        protocol.pong_is_late()
        closed.append(transport.closed)
    assert closed == [False, True]
    protocol.connection_lost(None)


async def test_bytes_above_the_rate_are_read_more_slowly_and_never_refused() -> None:
    application = Application()
    transport, protocol = await _open(
        application, Allowance(100 * KIB * KIB), message_bytes_per_s=1000 * KIB, message_bytes_burst=100 * KIB
    )
    stream = frame(b"x" * LARGE)
    pauses = 0
    for start in range(0, len(stream), 64 * KIB):
        protocol.data_received(stream[start : start + 64 * KIB])
        if not transport.reading and start + 64 * KIB < len(stream):
            pauses += 1
            await until(lambda: transport.reading, "read on")
    await until(lambda: application.sizes == [LARGE], "it is there")
    assert pauses >= 2
    assert not transport.closed
    protocol.connection_lost(None)


@contextmanager
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("unfinished", [b"", frame(b"x" * LARGE)[:-1], frame(b"x" * 60_000)[:-1], b"\x89"])
async def test_a_socket_that_is_gone_is_free_without_the_collector(unfinished: bytes) -> None:
    application = Application()
    transport, protocol = await _open(application, Allowance(100 * KIB * KIB))
    with _no_collector():
        gone = [weakref.ref(o) for o in (protocol,)]
        protocol.data_received(unfinished)
        protocol.connection_lost(None)
        transport.protocol = None
        del protocol, transport
        await until(lambda: len(application.heard) == 1, "told of the end")
        await until(lambda: [ref() for ref in gone] == [None], "freed")


# -- parsing -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("as_text", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("name", ATTACKS)
async def test_no_text_holds_the_loop(name: str, as_text: bool) -> None:
    parsing, text = Parsing(), ATTACKS[name].decode() if as_text else bytearray(ATTACKS[name])

    async def parse() -> None:
        try:
            await parsing.parse(text, lambda raw: decode_client_frame(raw, checked=True))
        except ProtocolError as exc:
            assert len(str(exc)) < 200  # noqa: PT017 - it may also be a message

    longest_s = MOST_GAP_S
    for _ in range(3):
        # The machine may be busy with something else: it counts if it is always so.
        if longest_s >= MOST_GAP_S:
            async with LoopWatch() as watch:
                await asyncio.gather(*(parse() for _ in range(3)))
            longest_s = watch.longest_gap_s
    assert longest_s < MOST_GAP_S


async def test_large_texts_are_parsed_one_at_a_time_and_others_have_their_turn() -> None:
    parsing, order = Parsing(), []
    text = orjson.dumps([[n] for n in range(40_000)])
    turns = 0

    async def parse(number: int) -> None:
        await parsing.parse(text, orjson.loads)
        order.append((number, turns))

    async def others() -> None:
        nonlocal turns
        while len(order) < 10:
            await asyncio.sleep(0)
            turns += 1

    await asyncio.gather(others(), *(parse(n) for n in range(10)))
    assert [number for number, _ in order] == list(range(10))
    # In the scan of each, and after it was parsed.
    assert all(later - earlier > len(text) / PIECE_BYTES for (_, earlier), (_, later) in pairwise(order))


async def test_a_text_that_is_given_up_leaves_the_turn_to_the_next() -> None:
    parsing, text = Parsing(), b'{"x":"' + b"y" * 1_000_000 + b'"}'
    given_up = asyncio.create_task(parsing.parse(text, orjson.loads))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await parsing.parse(text, orjson.loads) == {"x": "y" * 1_000_000}
    with pytest.raises(TooLarge):
        await parsing.parse(b"[" * 500_000, orjson.loads)
    assert await parsing.parse(b"[1]", orjson.loads) == [1]


def test_an_envelope_is_read_from_both_ends() -> None:
    around = {"type": "command_results", "status": "continue", "client_id": None, "session_id": 'a "b" \\', "n": 1.5}
    behind = {"request_id": "r", "prev_response_id": "p", "error": None}
    inside = [{"session_id": "x", "prev_response_id": "no", "text": '","session_id":"y"}'}] * 5
    raw = orjson.dumps({**around, "action_results": inside * 2_000, **behind})
    for given in (raw, raw.decode(), bytearray(raw)):
        assert envelope(given) == {**around, **behind}
    assert envelope(orjson.dumps({"a": inside, **behind})) == behind
    for other in (b"", b"[]", b"{", b"}", b'{"a":1}', raw[:-1], raw[1:], b'{"\\ud800":1,"a":[]}', b"\xff" * 10):
        assert set(envelope(other)) <= {*around, *behind, "a", "\ud800"}
