"""What a client sends over a WebSocket, as bytes; and what websockets' own protocol makes of such a stream."""

import struct

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

__all__ = ["Told", "by_websockets", "frame"]

MASK = b"\x12\x34\x56\x78"

# "text", "bytes", "ping", "pong" with what was said, or "end" with the code of the close.
Told = tuple[str, str | bytes | int]


def frame(payload: bytes, head: int = 0x81, *, masked: bool = True) -> bytes:
    """A frame; `head` is its first byte."""
    size, bit = len(payload), 0x80 * masked
    if size < 126:
        length = bytes((bit | size,))
    elif size < 65_536:
        length = struct.pack("!BH", bit | 126, size)
    else:
        length = struct.pack("!BQ", bit | 127, size)
    if not masked:
        return bytes((head,)) + length + payload
    return bytes((head,)) + length + MASK + bytes(b ^ MASK[i % 4] for i, b in enumerate(payload))


def by_websockets(stream: bytes) -> list[Told]:
    """What a server is told that uses websockets' `ServerProtocol`, and decodes its texts.

    Bytes are given one by one: of a read in which it finds a fault, it forgets what came before that.
    """
    protocol, told = ServerProtocol(state=State.OPEN, max_size=None), list[Told]()
    parts: list[bytes] = []
    opcode = Opcode.CONT
    for byte in (stream[i : i + 1] for i in range(len(stream))):
        protocol.receive_data(byte)
        if protocol.parser_exc is not None:
            assert protocol.close_sent is not None
            return [*told, ("end", int(protocol.close_sent.code))]
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            data = bytes(event.data)
            if event.opcode is Opcode.CLOSE:
                return [*told, ("end", int(Close.parse(data).code))]
            if event.opcode in {Opcode.PING, Opcode.PONG}:
                told.append((event.opcode.name.lower(), data))
                continue
            opcode, parts = (opcode, [*parts, data]) if event.opcode is Opcode.CONT else (event.opcode, [data])
            if event.fin and opcode is Opcode.BINARY:
                told.append(("bytes", b"".join(parts)))
            elif event.fin:
                try:
                    told.append(("text", b"".join(parts).decode()))
                except UnicodeDecodeError:
                    return [*told, ("end", 1007)]
    return told
