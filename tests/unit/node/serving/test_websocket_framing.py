"""RFC 6455's rules for frames, one by one; and any stream, cut anywhere, is read as websockets would read it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.serving import websocket_frames as frames
from node.serving.websocket_frames import (
    Binary,
    Event,
    Fault,
    FrameReader,
    Goodbye,
    LargeText,
    NeedsRoom,
    Ping,
    Pong,
    TooLarge,
)
from tests.support.websocket_streams import Told, by_websockets, frame

MAX_BYTES = 1_000_000
TEXT, MORE_TEXT, MORE, LAST, BINARY, CLOSE, PING, PONG = 0x81, 0x01, 0x00, 0x80, 0x82, 0x88, 0x89, 0x8A
WIDE = "aé漢😀".encode()


def read(*pieces: bytes, max_bytes: int = MAX_BYTES) -> list[Event]:
    """What is made of a stream that comes in these pieces; there is room for all that asks for it."""
    reader, events = FrameReader(max_bytes), list[Event]()
    for piece in pieces:
        rest = piece
        while True:
            new, taken = reader.read(rest)
            rest = rest[taken:]
            asks = bool(new) and isinstance(new[-1], NeedsRoom)
            events += [event for event in new if not isinstance(event, NeedsRoom)]
            if not asks:
                break
            reader.has_room = True
        assert rest == b"", "all is taken unless room is asked for"
    return events


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        # Opcodes.
        (frame(b"hi", TEXT), ["hi"]),
        (frame(b"", TEXT), [""]),
        (frame(b"\xff", BINARY), [Binary(b"\xff")]),
        (frame(b"?", PING), [Ping(b"?")]),
        (frame(b"!", PONG), [Pong(b"!")]),
        (frame(b"x", LAST), [Fault(1002, "unexpected continuation frame")]),
        *((frame(b"", 0x80 | opcode), [Fault(1002, "invalid opcode")]) for opcode in (*range(3, 8), *range(11, 16))),
        # Reserved bits.
        *(
            (frame(b"x", head | bit), [Fault(1002, "reserved bits must be 0")])
            for bit in (0x10, 0x20, 0x40)
            for head in (TEXT, BINARY, PING, PONG, CLOSE)
        ),
        # Masks.
        *(
            (frame(b"x", head, masked=False), [Fault(1002, "incorrect masking")])
            for head in (TEXT, BINARY, PING, PONG, CLOSE)
        ),
        # Lengths, at the borders of their three forms; a form that is longer than it need be is taken.
        *((frame(b"x" * size), ["x" * size]) for size in (1, 125, 126, 127, 65_535, 65_536)),
        (b"\x81\xfe\x00\x01\0\0\0\0x", ["x"]),
        (b"\x81\xff" + bytes(7) + b"\x01\0\0\0\0x", ["x"]),
        (frame(b"x" * 300_000), [LargeText(b"x" * 300_000)]),
        # Fragments.
        (frame(b"a", MORE_TEXT) + frame(b"", MORE) + frame(b"b", LAST), ["ab"]),
        (frame(b"", MORE_TEXT) + frame(b"", LAST), [""]),
        (frame(b"a", 0x02) + frame(b"b", LAST) + frame(b"c"), [Binary(b"ab"), "c"]),
        (frame(b"a", MORE_TEXT) + frame(b"b", TEXT), [Fault(1002, "expected a continuation frame")]),
        (frame(b"a", MORE_TEXT) + frame(b"b", BINARY), [Fault(1002, "expected a continuation frame")]),
        (frame(b"a") + frame(b"b", MORE), ["a", Fault(1002, "unexpected continuation frame")]),
        # Control frames, also amid fragments.
        (
            frame(b"a", MORE_TEXT) + frame(b"?", PING) + frame(b"!", PONG) + frame(b"b", LAST),
            [Ping(b"?"), Pong(b"!"), "ab"],
        ),
        (frame(b"x" * 125, PING), [Ping(b"x" * 125)]),
        (frame(b"x" * 126, PING), [Fault(1002, "control frame too long")]),
        (frame(b"x" * 70_000, PONG), [Fault(1002, "control frame too long")]),
        (frame(b"x", 0x09), [Fault(1002, "fragmented control frame")]),
        (frame(b"a", MORE_TEXT) + frame(b"", CLOSE), [Fault(1002, "incomplete fragmented message")]),
        # Goodbyes: nothing behind them is read.
        (frame(b"", CLOSE) + frame(b"x"), [Goodbye(1005, "")]),
        (frame(b"\x03\xe8bye", CLOSE) + frame(b"x"), [Goodbye(1000, "bye")]),
        (frame(b"\x03", CLOSE), [Fault(1002, "close frame too short")]),
        (frame(b"\x03\xe8\xff", CLOSE), [Fault(1007, "the reason of a close must be UTF-8")]),
        *((frame(code.to_bytes(2), CLOSE), [Goodbye(code, "")]) for code in (1000, 1003, 1007, 1014, 3000, 4999)),
        *(
            (frame(code.to_bytes(2), CLOSE), [Fault(1002, "invalid close code")])
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)
        ),
        # Texts that are none.
        (frame(b"\xff"), [Fault(1007, "a text must be UTF-8")]),
        (frame(b"\xed\xa0\x80"), [Fault(1007, "a text must be UTF-8")]),
        (frame(WIDE[:-1]), [Fault(1007, "a text must be UTF-8")]),
        (frame(b"x" * 70_000 + WIDE[:-1]), [Fault(1007, "a text must be UTF-8")]),
        (frame(b"x" * 300_000 + WIDE[:-1]), [Fault(1007, "a text must be UTF-8")]),
    ],
)
def test_a_stream_is_read_as_the_rules_say(stream: bytes, events: list[Event]) -> None:
    assert read(stream) == events
    if len(stream) < 1_000:
        for cut in range(1, len(stream)):
            assert read(stream[:cut], stream[cut:]) == events, f"cut at {cut}"
        assert read(*(stream[i : i + 1] for i in range(len(stream)))) == events


@pytest.mark.parametrize("cut", range(len(WIDE) + 1))
@pytest.mark.parametrize("before", [b"", b"x" * 70_000, b"x" * 300_000])
def test_characters_may_be_cut_anywhere_by_frames_and_reads(before: bytes, cut: int) -> None:
    whole = before + WIDE
    expected: list[Event] = [whole.decode() if len(whole) < 256 * 1024 else LargeText(whole)]
    at = len(before) + cut
    assert read(frame(whole[:at], MORE_TEXT) + frame(whole[at:], LAST)) == expected
    one = frame(whole)
    assert read(one[: at + len(one) - len(whole)], one[at + len(one) - len(whole) :]) == expected


def test_a_large_text_that_is_none_is_found_out_before_its_end() -> None:
    stream = frame(b"x" * 70_000 + b"\xff" + b"x" * 100_000)
    assert read(stream[:80_000]) == [Fault(1007, "a text must be UTF-8")]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_what_is_too_large_is_told_by_its_head_and_goodbyes_are_heard_after_it(opcode: int) -> None:
    stream = frame(b"x" * 11, opcode)
    assert read(stream[:6], max_bytes=10) == [TooLarge(11)]
    rest = frame(b"small") + frame(b"?", PING) + frame(b"", CLOSE)
    assert read(stream + rest, max_bytes=10) == [TooLarge(11), Ping(b"?"), Goodbye(1005, "")]
    fragments = frame(b"x" * 10, opcode & 0x0F) + frame(b"x", LAST)
    assert read(fragments + rest, max_bytes=10) == [TooLarge(11), Ping(b"?"), Goodbye(1005, "")]
    huge = bytes((opcode, 0xFF)) + b"\xff" * 8 + bytes(4)
    assert read(huge) == [TooLarge(2**64 - 1)]


def test_room_is_asked_for_before_a_large_message_is_read_and_once() -> None:
    reader, payload = FrameReader(MAX_BYTES), b"x" * 70_000
    whole = frame(payload, BINARY)
    head = len(whole) - len(payload)
    assert reader.read(frame(b"before") + whole) == (["before", NeedsRoom(70_000)], len(frame(b"before")) + head)
    reader.has_room = True
    assert reader.read(whole[head:]) == ([Binary(payload)], 70_000)
    # Of fragments nobody knows how many there will be.
    first, second, last = frame(b"x" * 60_000, 0x02), frame(b"x" * 60_000, MORE), frame(b"", LAST)
    events, taken = reader.read(first + second + last)
    assert (events, reader.progress) == ([NeedsRoom(None)], 60_000)
    reader.has_room = True
    assert reader.read((first + second + last)[taken:]) == ([Binary(b"x" * 120_000)], 60_000 + len(last))
    assert reader.progress == 0


def test_each_frame_counts() -> None:
    reader = FrameReader(MAX_BYTES)
    reader.read(frame(b"a") + frame(b"b", MORE_TEXT) + frame(b"", MORE) + frame(b"c", LAST) + frame(b"", PING))
    assert reader.frames == 5


def test_what_is_sent_is_framed_as_clients_read_it() -> None:
    for size in (0, 125, 126, 65_535, 65_536):
        assert frames.encode(frames.Opcode.BINARY, b"x" * size) == frame(b"x" * size, BINARY, masked=False)
    assert frames.encode_close(4000, "why") == frame(b"\x0f\xa0why", CLOSE, masked=False)
    assert frames.encode_close(1005) == frame(b"", CLOSE, masked=False)
    # A reason is cut where a character ends.
    assert frames.encode_close(4000, "é" * 100) == frame(b"\x0f\xa0" + "é".encode() * 61, CLOSE, masked=False)


# -- beside websockets -------------------------------------------------------------------------------------------------
_HEADS = st.sampled_from([TEXT, MORE_TEXT, MORE, LAST, BINARY, 0x02, CLOSE, PING, PONG]) | st.integers(0, 255)
_PAYLOADS = (
    st.binary(max_size=20)
    | st.text(max_size=20).map(str.encode)
    | st.integers(0, 0xFFFF).map(lambda code: code.to_bytes(2))
    | st.sampled_from([b"x" * 125, b"x" * 126, "漢".encode() * 50, WIDE[1:], WIDE[:-1]])
)
_USUAL = st.builds(frame, _PAYLOADS, st.sampled_from([TEXT, MORE_TEXT, MORE, LAST, BINARY, PING, PONG]))
_FRAMES = st.lists(_USUAL | st.builds(frame, _PAYLOADS, _HEADS, masked=st.booleans()), max_size=8)


def _as_told(event: Event) -> Told:
    match event:
        case str():
            return "text", event
        case Ping(payload) | Pong(payload):
            return type(event).__name__.lower(), payload
        case Goodbye(code, _) | Fault(code, _):
            return "end", code
        case Binary(body):
            return "bytes", bytes(body)
    raise AssertionError(event)


@given(_FRAMES, st.lists(st.integers(1, 40), max_size=30))
def test_any_frames_cut_anywhere_are_read_as_websockets_reads_them(parts: list[bytes], sizes: list[int]) -> None:
    stream, pieces, at = b"".join(parts), list[bytes](), 0
    for size in sizes:
        pieces.append(stream[at : at + size])
        at += size
    assert [_as_told(event) for event in read(*pieces, stream[at:])] == by_websockets(stream)
