"""Closing a listener without losing a connection that was made to it.

The kernel completes connections before anybody accepts them, and resets those that still wait when the listener is
closed: a POST may have been sent over one already, and no balancer sends it again. So, before it is closed, the
listener takes no new connection (a filter drops what would open one; its sender repeats that after a second, and is
refused then, which every balancer takes for a reason to ask another node), and what waits is accepted. Elsewhere than
on Linux there is no such filter: then the window stays open, some milliseconds wide.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence

__all__ = ["close_listeners", "stop_taking", "waiting"]

log = logging.getLogger(__name__)

SO_ATTACH_FILTER = 26
# Classic BPF over the TCP header: code, jump if true, jump if false, operand.
DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the flags
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # then drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else take it
)
# In `struct tcp_info`, of a listener: how many connections wait to be accepted.
UNACKED_AT = 24
LOOK_S = 0.02
# For handshakes that had begun to be completed.
HANDSHAKE_S = 0.1
ACCEPT_PATIENCE_S = 1.0


async def close_listeners(servers: Sequence[asyncio.Server]) -> None:
    """Take no more connections, accept those that were made, then close. Takes about 0.1 s, 1.1 s at most."""
    with _sockets(servers) as listeners:
        if all(stop_taking(listener) for listener in listeners):
            await asyncio.sleep(HANDSHAKE_S)
            left_s = ACCEPT_PATIENCE_S
            while any(waiting(listener) for listener in listeners) and left_s > 0:
                await asyncio.sleep(LOOK_S)
                left_s -= LOOK_S
        for server in servers:
            server.close()


def stop_taking(listener: socket.socket) -> bool:
    """Drop what would open a connection to `listener`. False where that cannot be done."""
    if sys.platform != "linux":
        return False
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in DROP_SYN))
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(DROP_SYN), ctypes.addressof(program))
        )
    except OSError as exc:
        log.warning("connections may be lost with the listener", extra={"reason": str(exc)})
        return False
    return True


def waiting(listener: socket.socket) -> int:
    """How many connections wait to be accepted. Linux only."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKED_AT + 4)
    count: int = struct.unpack_from("I", info, UNACKED_AT)[0]
    return count


@contextlib.contextmanager
def _sockets(servers: Sequence[asyncio.Server]) -> Iterator[list[socket.socket]]:
    """The listening sockets under handles of our own: the loop lends its own for looking at only."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.socket(fileno=os.dup(lent.fileno())))
            for server in servers
            for lent in server.sockets
        ]
