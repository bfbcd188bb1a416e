"""How a JSON text is built: how deep it is nested and how many values it has, found out before it is parsed.

orjson parses a text in one call, which holds the interpreter for as long as it takes; what that is depends on the
number of values and the depth, and hardly on the size. So both have bounds, and a text that breaks one is never parsed.
The scan takes the text piece by piece, in time linear in its size, so that its user can do other things in between. It
does not validate: up to the first mistake in the text its counts are right, and a parser does not get past that.
"""

from collections.abc import Iterator
from itertools import accumulate

from aip_cluster.protocol.errors import TooLarge

__all__ = ["MAX_DEPTH", "MAX_VALUES", "Structure", "Text", "check_structure", "pieces"]

# orjson reads deeper than it writes (254 levels): what we could not pass on is refused at the door.
MAX_DEPTH = 200
# Parsed in 20 ms at the worst (an object of distinct keys), and walked through in a tenth of a second by what strikes
# secrets out. The control tree of a large window has half of it.
MAX_VALUES = 100_000
# Scanned in 1 ms at the worst (nothing but quotes, or brackets).
PIECE_BYTES = 32 * 1024

Text = bytes | bytearray | str

# All but these: to be deleted.
_BRACKETS_AND_COMMAS = bytes(set(range(256)) - set(b"[]{},"))
_STEPS = [0] * 256
for _byte in b"[{":
    _STEPS[_byte] = 1
for _byte in b"]}":
    _STEPS[_byte] = -1


class Structure:
    """What is known of a text of which the pieces so far were fed."""

    __slots__ = ("_carried", "_depth", "_in_string", "values")

    def __init__(self) -> None:
        self._in_string = False
        self._depth = 0
        # A backslash that ends a piece belongs to the next.
        self._carried = b""
        # At least so many values: one after each comma, one after each bracket that opens.
        self.values = 1

    def feed(self, piece: bytes | bytearray) -> None:
        """Take the next piece. Raises TooLarge once the text is too deep or has too many values."""
        piece = self._carried + piece if self._carried else piece
        self._carried = b""
        if b"\\" in piece:
            # From the left: pairs first, since the second of a pair escapes nothing.
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
            if piece.endswith(b"\\"):
                self._carried, piece = b"\\", piece[:-1]
        # Quotes that are left begin and end strings: every other part is outside.
        parts = piece.split(b'"')
        outside = b"".join(parts[self._in_string :: 2]).translate(None, _BRACKETS_AND_COMMAS)
        self._in_string ^= not len(parts) & 1
        if not outside:
            return
        brackets = outside.translate(None, b",")
        opened = brackets.count(b"[") + brackets.count(b"{")
        self.values += len(outside) - len(brackets) + opened
        if self.values > MAX_VALUES:
            raise TooLarge(f"the frame has more than {MAX_VALUES} values")
        if self._depth + opened > MAX_DEPTH and max(self._depths(brackets)) > MAX_DEPTH:
            raise TooLarge(f"the frame is nested deeper than {MAX_DEPTH} levels")
        self._depth += 2 * opened - len(brackets)

    def _depths(self, brackets: bytes | bytearray) -> Iterator[int]:
        return accumulate(map(_STEPS.__getitem__, brackets), initial=self._depth)


def check_structure(raw: Text) -> None:
    """Scan a whole text at once. Raises TooLarge if it is too deep or has too many values."""
    if _plain(raw):
        return
    structure = Structure()
    for piece in pieces(raw):
        structure.feed(piece)


def pieces(raw: Text) -> Iterator[bytes | bytearray]:
    """A text, piece by piece."""
    for start in range(0, len(raw), PIECE_BYTES):
        piece = raw[start : start + PIECE_BYTES]
        yield piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece


def _plain(raw: Text) -> bool:
    """Whether a text cannot break a bound, whatever of its brackets and commas are in strings."""
    opened = raw.count("[") + raw.count("{") if isinstance(raw, str) else raw.count(b"[") + raw.count(b"{")
    if opened > MAX_DEPTH:
        return False
    # Between two values there is at least one byte.
    if len(raw) <= 2 * MAX_VALUES:
        return True
    return opened + (raw.count(",") if isinstance(raw, str) else raw.count(b",")) < MAX_VALUES
