"""What a frame says of itself, read without parsing it: for frames that are too large to be parsed.

Only the plain members (text, number, true, false, null) at the beginning and at the end of the object are read, up to
the first that is something else: the large one is between them, whatever it holds.
"""

import re
from typing import Any

import orjson

__all__ = ["envelope"]

HEAD_BYTES = 64 * 1024
TAIL_BYTES = 4 * 1024
# A message has fifteen fields.
MEMBERS = 32

_PLAIN = rb"[-+.0-9eE]+|true|false|null"
_FIRST = re.compile(rb'\s*("(?:[^"\\]|\\.)*")\s*:\s*("(?:[^"\\]|\\.)*"|' + _PLAIN + rb")\s*,", re.DOTALL)
# Without escapes: from the end, a text is known by its quotes only.
_LAST = re.compile(rb',\s*("[^"\\]*")\s*:\s*("[^"\\]*"|' + _PLAIN + rb")\s*$")


def envelope(raw: bytes | bytearray | str) -> dict[str, Any]:
    """The plain members around what is large; empty for what is no JSON object. Never raises."""
    head, tail = _bytes(raw[:HEAD_BYTES]).lstrip(), _bytes(raw[-TAIL_BYTES:]).rstrip()
    if not head.startswith(b"{"):
        return {}
    found: list[tuple[bytes, bytes]] = []
    start = 1
    while len(found) < MEMBERS and (match := _FIRST.match(head, start)) is not None:
        found.append((match[1], match[2]))
        start = match.end()
    if tail.endswith(b"}"):
        tail = tail[:-1]
        while len(found) < 2 * MEMBERS and (match := _LAST.search(tail)) is not None:
            found.append((match[1], match[2]))
            tail = tail[: match.start()]
    try:
        return {orjson.loads(name): orjson.loads(value) for name, value in found}
    except orjson.JSONDecodeError:
        return {}


def _bytes(part: bytes | bytearray | str) -> bytes:
    return part.encode("utf-8", "surrogatepass") if isinstance(part, str) else bytes(part)
