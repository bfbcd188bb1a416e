"""TCP ports for servers of ours: free, and given to one process of this machine only.

A port that is free now may be somebody else's before its server listens, or while its server is dead. Test runs beside
each other therefore take leases: one byte of a file each, locked as long as the process lives, which the kernel
releases however it ends.
"""

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

__all__ = ["free_port", "free_ports", "is_free"]

# Below the ports that the system gives to outgoing connections: a reconnecting client must not take a server's port.
PORTS = range(20_000, 32_000)

_given: set[int] = set()


def free_port() -> int:
    """A TCP port that nobody listens on, and that nobody else is given while this process lives."""
    return free_ports((0,))


def free_ports(offsets: Sequence[int]) -> int:
    """A port for which all of port + offset are free, as `free_port` says. Raises RuntimeError if there is none."""
    for base in random.sample(PORTS, len(PORTS)):
        if all(_take(base + offset) for offset in offsets):
            return base
    raise RuntimeError(f"no free port in {PORTS}")


def is_free(port: int) -> bool:
    """Whether nobody listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _take(port: int) -> bool:
    if port in _given or not is_free(port):
        return False
    try:
        # Kept also where another port of the same request cannot be had: there are enough.
        fcntl.lockf(_leases(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _given.add(port)
    return True


@cache
def _leases() -> int:
    """The file of the leases: opened once, since closing it anywhere in the process would release them all."""
    path = Path(tempfile.gettempdir(), f"aip-cluster-ports-{os.getuid()}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
