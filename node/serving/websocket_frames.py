"""WebSocket framing for a server, as RFC 6455 has it: bytes in, messages and faults out; no I/O, no clock.

`FrameReader.read` takes whatever has arrived, cut anywhere, and returns what it amounts to. Each byte of a payload is
unmasked and checked as it comes, and kept once. The size of a message is known when the head of its last frame is
there: a message above `max_bytes` is reported by its head (`TooLarge`), and nothing of it is kept; one above
`SMALL_BYTES` is reported (`NeedsRoom`) before its payload is read, so that the owner can set memory apart for it first.

websockets' own parser gives a frame when its last byte has come, keeps it twice meanwhile, and unmasks and decodes
100 MiB in calls of a second: it cannot keep those bounds. Here it is used for the handshake only
(`node.serving.websocket_handshake`); `tests/unit/node/serving/test_websocket_framing.py` compares the two.
"""

import codecs
import struct
from enum import IntEnum
from typing import NamedTuple

from node.concurrency.parsing import LARGE_BYTES

try:
    # Not documented by websockets: its C code, several times as fast as what Python has for this.
    from websockets.speedups import apply_mask
except ImportError:  # a build of websockets without its C code

    def apply_mask(data: bytes | bytearray | memoryview, mask: bytes | bytearray) -> bytes:
        """`data` with each byte XORed with that of the mask whose turn it is (RFC 6455, section 5.3)."""
        size = len(data)
        repeated = (mask * (size // MASK_BYTES + 1))[:size]
        return (int.from_bytes(data) ^ int.from_bytes(repeated)).to_bytes(size)


__all__ = [
    "SMALL_BYTES",
    "Binary",
    "Event",
    "Fault",
    "FrameReader",
    "Goodbye",
    "LargeText",
    "NeedsRoom",
    "Opcode",
    "Ping",
    "Pong",
    "TooLarge",
    "apply_mask",
    "encode",
    "encode_close",
]

# A larger message needs memory set apart for it; a larger text is checked to be UTF-8 piece by piece, not at its end.
SMALL_BYTES = 64 * 1024

# Of a frame's first byte: whether the frame is the last of its message; bits reserved for extensions; its opcode.
FINAL = 0x80
RESERVED = 0x70
OPCODE = 0x0F
# Of the second byte: whether the payload is masked, as every client's must be; its size, or where that stands.
MASKED = 0x80
SIZE = 0x7F
SIZE_IN_2_BYTES = 126
SIZE_IN_8_BYTES = 127
MASK_BYTES = 4
LONGEST_CONTROL = 125

PROTOCOL_ERROR = 1002
NO_CODE = 1005
INVALID_DATA = 1007
NOT_UTF8 = "a text must be UTF-8"
# Codes that a close frame may have (RFC 6455, section 7.4, and IANA's registry): 1004 to 1006 and 1015 are never sent.
REGISTERED_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
FREE_CODES = range(3000, 5000)

_MEDIUM_HEAD = struct.Struct("!BBH")
_LONG_HEAD = struct.Struct("!BBQ")
_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Opcode(IntEnum):
    """What kind a frame is. Control frames are those from CLOSE on."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


# As plain numbers: an enumeration's member costs two look-ups for each frame.
_CONTINUATION, _TEXT = int(Opcode.CONTINUATION), int(Opcode.TEXT)
_CLOSE, _PING, _PONG = int(Opcode.CLOSE), int(Opcode.PING), int(Opcode.PONG)
_KNOWN = frozenset(map(int, Opcode))


class LargeText(NamedTuple):
    """A text message above LARGE_BYTES: its UTF-8, which is known to be valid. (A smaller one is a `str`.)"""

    body: bytes | bytearray


class Binary(NamedTuple):
    """A binary message."""

    body: bytes | bytearray


class Ping(NamedTuple):
    """To be answered with a pong of the same payload."""

    payload: bytes


class Pong(NamedTuple):
    """The answer to a ping, or a sign of life that nobody asked for."""

    payload: bytes


class Goodbye(NamedTuple):
    """The peer's close frame, to be answered with the same; nothing behind it is read."""

    code: int
    reason: str


class Fault(NamedTuple):
    """The peer breaks the protocol; nothing behind it is read. The code and reason are what to close with."""

    code: int
    reason: str


class TooLarge(NamedTuple):
    """A message has announced `size` bytes so far, more than `max_bytes`; no message is told of any more."""

    size: int


class NeedsRoom(NamedTuple):
    """The message that begins, or goes on, is above SMALL_BYTES: of `size` bytes, None if nobody knows how many.

    Nothing behind its head was read: call `read` again with the rest once there is room. To be asked but once for a
    message of several frames, set `has_room`.
    """

    size: int | None


Event = str | LargeText | Binary | Ping | Pong | Goodbye | Fault | TooLarge | NeedsRoom


def encode(opcode: int, payload: bytes) -> bytes:
    """An unmasked frame that is a whole message, or a control frame of at most 125 bytes."""
    size = len(payload)
    if size < SIZE_IN_2_BYTES:
        return bytes((FINAL | opcode, size)) + payload
    if size <= 0xFFFF:
        return _MEDIUM_HEAD.pack(FINAL | opcode, SIZE_IN_2_BYTES, size) + payload
    return _LONG_HEAD.pack(FINAL | opcode, SIZE_IN_8_BYTES, size) + payload


def encode_close(code: int, reason: str = "") -> bytes:
    """A close frame. A reason that is too long for it is cut; with a code that may not be sent (1005: there was none)
    the frame is empty."""
    if not _may_be_sent(code):
        return encode(_CLOSE, b"")
    # The cut may fall amid a character.
    text = reason.encode()[: LONGEST_CONTROL - 2].decode(errors="ignore").encode()
    return encode(_CLOSE, code.to_bytes(2) + text)


class FrameReader:
    """Reads what one client sends. What it knows between two reads is a frame that is not whole, or a message."""

    __slots__ = (
        *("_body", "_decoder", "_final", "_fragmented", "_head", "_in_frame", "_mask", "_opcode", "_size"),
        *("_at_once_bytes", "_ended", "_max_bytes", "discards", "frames", "has_room", "missing"),
    )

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = self._at_once_bytes = 0
        self.max_bytes = max_bytes
        # How many frames have come; the owner counts them, and sets it back.
        self.frames = 0
        # Messages are read past, not told of: the socket is being closed, and only the peer's answer to that matters.
        self.discards = False
        # Of the frame: the bytes of a head that is not whole; once it is, what of the payload has not come.
        self._head = b""
        self._in_frame = False
        self._final = False
        self._mask = b""
        self.missing = 0
        # Of the message: its opcode (CONTINUATION: none is under way), the size announced, and what has come of it.
        self._opcode = _CONTINUATION
        self._size = 0
        self._fragmented = False
        self._body: bytes | bytearray = b""
        self._decoder: codecs.IncrementalDecoder | None = None
        # Whether memory is set apart for it: the owner says so.
        self.has_room = False
        # A close frame has come, or a fault.
        self._ended = False

    @property
    def max_bytes(self) -> int:
        """The largest message that is taken."""
        return self._max_bytes

    @max_bytes.setter
    def max_bytes(self, size: int) -> None:
        self._max_bytes = size
        self._at_once_bytes = min(size, SMALL_BYTES)

    @property
    def progress(self) -> int:
        """How many bytes there are of the message that is on its way in."""
        return len(self._body)

    def discard(self) -> None:
        """Keep nothing of messages from now on; control frames are told of as before. Safe to repeat."""
        self.discards = True
        self._at_once_bytes = -1
        self._body, self._decoder = b"", None

    def read(self, data: bytes) -> tuple[list[Event], int]:  # noqa: PLR0912 - for each frame; calls would cost more
        """Read what has arrived. Returns what it amounts to, in order, and how many bytes of `data` were read.

        That is all of `data`, unless the last event is NeedsRoom.
        """
        events: list[Event] = []
        at, kept = 0, len(self._head)
        if kept:
            data, self._head = self._head + data, b""
        end = len(data)
        while not self._ended:
            if not self._in_frame:
                if end - at < 2:
                    break
                first, second = data[at], data[at + 1]
                # A text in one frame, where no message is under way, is nearly everything, and has no fault.
                if (first != FINAL | _TEXT or second < MASKED or self._opcode) and (
                    fault := self._fault(first, second)
                ):
                    self._end(events, Fault(PROTOCOL_ERROR, fault))
                    break
                size, start = second & SIZE, at + 2 + MASK_BYTES
                if size >= SIZE_IN_2_BYTES:
                    start += 2 if size == SIZE_IN_2_BYTES else 8
                    size = int.from_bytes(data[at + 2 : start - MASK_BYTES])
                opcode = first & OPCODE
                if end < (start + size if opcode >= _CLOSE else start):
                    break
                mask, at = data[start - MASK_BYTES : start], start
                self.frames += 1
                if opcode >= _CLOSE:
                    at += size
                    self._control(events, opcode, apply_mask(data[start:at], mask))
                    continue
                if size <= end - at and first >= FINAL and not self._opcode and size <= self._at_once_bytes:
                    # A small message that is all there, as nearly all are, leaves nothing behind for the next frame.
                    at += size
                    if not self._tell(events, opcode, apply_mask(data[start:at], mask)):
                        break
                    continue
                if not self._begin(events, first, size, mask):
                    break
            missing = self.missing
            piece = data[at : at + missing]
            at += len(piece)
            if not self._take(events, piece) or len(piece) < missing:
                break
        if self._ended:
            at = end
        elif not self._in_frame and at < end:
            # Fewer bytes than a head has, or a control frame.
            self._head, at = data[at:], end
        return events, at - kept

    def _fault(self, first: int, second: int) -> str:  # noqa: PLR0911 - a list of rules
        """How these two bytes, the first of a frame, break the protocol; "" if they do not (RFC 6455, section 5)."""
        opcode = first & OPCODE
        if opcode not in _KNOWN:
            return "invalid opcode"
        if second < MASKED:
            return "incorrect masking"
        if first & RESERVED:
            return "reserved bits must be 0"
        if opcode >= _CLOSE:
            if second & SIZE > LONGEST_CONTROL:
                return "control frame too long"
            return "" if first & FINAL else "fragmented control frame"
        if (opcode == _CONTINUATION) is (self._opcode != _CONTINUATION):
            return ""
        return "expected a continuation frame" if opcode else "unexpected continuation frame"

    def _begin(self, events: list[Event], first: int, size: int, mask: bytes) -> bool:
        """The head of a data frame is whole. False if its payload has to wait."""
        opcode = first & OPCODE
        self._in_frame, self._final = True, first >= FINAL
        self._mask, self.missing = mask, size
        if opcode:
            self._opcode = opcode
            self._fragmented = first < FINAL
        total = self._size = self._size + size
        if self.discards:
            return True
        if total > self.max_bytes:
            events.append(TooLarge(total))
            self.discard()
        elif total > SMALL_BYTES and not self.has_room:
            events.append(NeedsRoom(None if self._fragmented else size))
            return False
        return True

    def _take(self, events: list[Event], piece: bytes) -> bool:
        """A piece of the frame's payload is there. False if it is no UTF-8, and should be."""
        size = len(piece)
        left = self.missing = self.missing - size
        if not self.discards:
            mask = self._mask
            plain = apply_mask(piece, mask)
            if left and (turn := size % MASK_BYTES):
                self._mask = mask[turn:] + mask[:turn]
            if not self._body:
                self._body = plain if self._final and not left else bytearray(plain)
            else:
                self._body += plain
            if self._opcode == _TEXT and self._size > SMALL_BYTES and not self._is_utf8(plain):
                self._end(events, Fault(INVALID_DATA, NOT_UTF8))
                return False
        if left:
            return True
        self._in_frame = False
        return not self._final or self._finish(events)

    def _is_utf8(self, plain: bytes) -> bool:
        """Whether a large text is UTF-8 so far, `plain` being what has come of it last."""
        try:
            if self._decoder is None:
                self._decoder, plain = _Utf8Decoder(), bytes(self._body)
            self._decoder.decode(plain)
        except UnicodeDecodeError:
            return False
        return True

    def _finish(self, events: list[Event]) -> bool:
        """The last frame of the message is whole. False if the message is no UTF-8, and should be."""
        body, opcode, decoder = self._body, self._opcode, self._decoder
        self._opcode, self._size, self._body, self._decoder = _CONTINUATION, 0, b"", None
        self._fragmented = self.has_room = False
        if self.discards:
            return True
        try:
            if decoder is not None:
                decoder.decode(b"", True)
        except UnicodeDecodeError:
            self._end(events, Fault(INVALID_DATA, NOT_UTF8))
            return False
        return self._tell(events, opcode, body)

    def _tell(self, events: list[Event], opcode: int, body: bytes | bytearray) -> bool:
        """A message is whole. False if it is no UTF-8, and should be."""
        if opcode != _TEXT:
            events.append(Binary(body))
            return True
        try:
            events.append(body.decode() if len(body) <= LARGE_BYTES else LargeText(body))
        except UnicodeDecodeError:
            self._end(events, Fault(INVALID_DATA, NOT_UTF8))
            return False
        return True

    def _control(self, events: list[Event], opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            events.append(Ping(payload))
        elif opcode == _PONG:
            events.append(Pong(payload))
        elif self._opcode and not self.discards:
            self._end(events, Fault(PROTOCOL_ERROR, "incomplete fragmented message"))
        else:
            self._end(events, _goodbye(payload))

    def _end(self, events: list[Event], last: Fault | Goodbye) -> None:
        """Nothing that comes behind this is read."""
        events.append(last)
        self._ended = True
        self._body, self._decoder = b"", None


def _may_be_sent(code: int) -> bool:
    return code in REGISTERED_CODES or code in FREE_CODES


def _goodbye(payload: bytes) -> Goodbye | Fault:
    """What a close frame says (RFC 6455, section 5.5.1)."""
    if not payload:
        return Goodbye(NO_CODE, "")
    code = int.from_bytes(payload[:2])
    if len(payload) < 2:
        return Fault(PROTOCOL_ERROR, "close frame too short")
    try:
        reason = payload[2:].decode()
    except UnicodeDecodeError:
        return Fault(INVALID_DATA, "the reason of a close must be UTF-8")
    return Goodbye(code, reason) if _may_be_sent(code) else Fault(PROTOCOL_ERROR, "invalid close code")
