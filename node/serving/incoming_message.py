"""A WebSocket message that comes in more than one piece, or in more than one frame (RFC 6455, section 5).

websockets' parser keeps all bytes of a frame until the last is there, then copies, unmasks and decodes them in calls
of a tenth of a second for each 100 MiB. Here each piece is unmasked, and looked at for its encoding, as it comes, and
is kept once. Sizes are known when a frame's head is there: nothing of a message that is too large is kept at all.
No I/O: `node.serving.websocket_protocol` feeds it, and asks what has become of it.
"""

import codecs
import struct
from collections.abc import Generator

from websockets.streams import StreamReader

try:
    from websockets.speedups import apply_mask
except ImportError:  # a build of websockets without its C code
    from websockets.utils import apply_mask

__all__ = [
    "ANNOUNCED",
    "CONTROL",
    "FINAL",
    "FINAL_TEXT",
    "LARGE_TEXT",
    "REGISTRATION_BYTES",
    "Incoming",
    "Reader",
    "apply_mask",
    "text_head",
]

# Keys of ASGI events, beside those of the specification: the UTF-8 of a large text message that is not decoded yet,
# and, in a disconnect, the announced size of a message that was refused.
LARGE_TEXT = "aip.large_text"
ANNOUNCED = "aip.announced_bytes"
# The largest message of a client that has not registered.
REGISTRATION_BYTES = 256 * 1024


# Of the first byte: the frame is its message's last; reserved bits; what kind it is.
FINAL = 0x80
RESERVED = 0x70
OPCODE = 0x0F
CONTINUATION, TEXT, BINARY = 0x0, 0x1, 0x2
# Opcodes from here on are no data.
CONTROL = 0x8
# Of the second byte: what clients send is masked; lengths from here on take 2 or 8 bytes more.
MASKED = 0x80
SHORT_FRAME = 126
LONGEST_CONTROL = 125
MASK_BYTES = 4
# Small texts are decoded as a whole.
DECODED_WHOLE_BYTES = 64 * 1024

# A text message in one frame: its first byte, and the size from which on the length takes 8 bytes.
FINAL_TEXT = FINAL | TEXT
MEDIUM_FRAME = 65_536
_MEDIUM_HEAD = struct.Struct("!BBH")
_LONG_HEAD = struct.Struct("!BBQ")

_Decoder = codecs.getincrementaldecoder("utf-8")


def text_head(size: int) -> bytes:
    """The head of an unmasked frame with a whole text of `size` bytes (RFC 6455, section 5.2)."""
    if size < SHORT_FRAME:
        return bytes((FINAL_TEXT, size))
    if size < MEDIUM_FRAME:
        return _MEDIUM_HEAD.pack(FINAL_TEXT, SHORT_FRAME, size)
    return _LONG_HEAD.pack(FINAL_TEXT, SHORT_FRAME + 1, size)


class Reader(StreamReader):
    """What websockets' parser reads from. `between`: whether the next byte begins a frame."""

    between = False

    def at_eof(self) -> Generator[None, None, bool]:
        """Asked for by the parser before each frame."""
        self.between = True
        ended = yield from super().at_eof()
        self.between = False
        return ended


class Incoming:
    """From the first byte of a frame until no frame and no message is under way."""

    __slots__ = (
        *(
            "_decoder",
            "_head",
            "_mask",
            "_taken",
            "body",
            "dropped",
            "final",
            "fragmented",
            "missing",
            "opcode",
        ),
        *("reserved", "size"),
    )

    def __init__(self) -> None:
        self._head = bytearray()
        # Of the frame: what kind, whether it ends its message, and how much of it is not there yet.
        self.final = False
        self.missing = 0
        self._mask = b""
        self._taken = 0
        # Of the message: its kind (0: none is under way), what is there, and its size as far as it is announced.
        self.opcode = CONTINUATION
        self.body = bytearray()
        self.size = 0
        self.fragmented = False
        # Memory that was taken for it.
        self.reserved = 0
        # It is not wanted any more: counted, and not kept.
        self.dropped = False
        self._decoder: codecs.IncrementalDecoder | None = None

    @property
    def is_text(self) -> bool:
        """Whether the message is a text."""
        return self.opcode == TEXT

    @property
    def done(self) -> bool:
        """Whether neither a frame nor a message is under way."""
        return self.opcode == CONTINUATION and not self._head and not self.missing

    def take_head(self, data: bytes) -> tuple[bytearray | None, bytes]:
        """Take what is missing of a frame's head from `data`. Returns the head, None as long as it is not whole, and
        what is left.

        The head of a control frame (no data: its opcode says so) comes with its payload.
        """
        head, start = self._head, 0
        while (wanted := _head_bytes(head)) > len(head) and start < len(data):
            piece = data[start : start + wanted - len(head)]
            head += piece
            start += len(piece)
        if wanted > len(head):
            return None, b""
        self._head = bytearray()
        return head, data[start:]

    def begin(self, head: bytearray) -> str:
        """A data frame begins. Returns how its head breaks the protocol, '' if it does not."""
        opcode, length = head[0] & OPCODE, head[1] & ~MASKED
        if opcode > BINARY:
            return "invalid opcode"
        if not head[1] & MASKED:
            return "incorrect masking"
        if head[0] & RESERVED:
            return "reserved bits must be 0"
        if CONTINUATION not in {opcode, self.opcode}:
            return "expected a continuation frame"
        if opcode == self.opcode == CONTINUATION:
            return "unexpected continuation frame"
        if length >= SHORT_FRAME:
            length = int.from_bytes(head[2:-MASK_BYTES])
        self.fragmented = opcode == CONTINUATION or not head[0] & FINAL
        self.opcode = self.opcode or opcode
        self.final = bool(head[0] & FINAL)
        self.missing, self._taken = length, 0
        self._mask = bytes(head[-MASK_BYTES:])
        self.size += length
        return ""

    def take(self, data: bytes) -> bytes:
        """Take what is missing of the frame's payload from `data`. Returns what is left.

        Raises UnicodeDecodeError if it is of a large text and no UTF-8.
        """
        piece, rest = (data, b"") if len(data) <= self.missing else (data[: self.missing], data[self.missing :])
        self.missing -= len(piece)
        if self.dropped:
            return rest
        shift = self._taken % MASK_BYTES
        self._taken += len(piece)
        plain = apply_mask(piece, self._mask[shift:] + self._mask[:shift])
        self.body += plain
        if self.opcode == TEXT and self.size > DECODED_WHOLE_BYTES:
            if self._decoder is None:
                self._decoder, plain = _Decoder(), bytes(self.body)
            self._decoder.decode(plain)
        return rest

    def check_end(self) -> None:
        """The message is whole. Raises UnicodeDecodeError if it is a large text that ends amid a character."""
        if self._decoder is not None:
            self._decoder.decode(b"", True)


def _head_bytes(head: bytearray) -> int:
    """How many bytes a head has that begins like this, as far as it can be known."""
    if len(head) < 2:
        return 2
    length = head[1] & ~MASKED
    if head[0] & CONTROL and length <= LONGEST_CONTROL and head[1] & MASKED:
        return 2 + MASK_BYTES + length
    return 2 + (0 if length < SHORT_FRAME else 2 if length == SHORT_FRAME else 8) + MASK_BYTES * bool(head[1] & MASKED)
