"""Which server of a Redis Cluster holds which hash slot, and which key a command is routed by."""

from collections.abc import Iterable
from typing import Any

from redis.crc import key_slot

from shared_state.redis.server import Args
from shared_state.redis.url import Address

__all__ = ["SLOTS", "parse_slots", "slot_of"]

SLOTS = 16_384

# Answered by any server. What is not listed names its key first (DESIGN: no command here names several slots).
_KEYLESS = frozenset(
    {"CLIENT", "CLUSTER", "CONFIG", "DBSIZE", "ECHO", "INFO", "PING", "PUBLISH", "ROLE", "SCAN", "SCRIPT", "TIME"}
)
_SCRIPTS = frozenset({"EVAL", "EVALSHA"})


def slot_of(args: Args) -> int | None:
    """The slot of the key that a command names, None if it names none."""
    name = str(args[0]).upper()
    if name in _KEYLESS or len(args) < 2:
        return None
    if name in _SCRIPTS:
        return _slot(args[3]) if int(args[2]) > 0 else None
    return _slot(args[1])


def parse_slots(reply: Any, asked: Address) -> list[Address | None]:
    """What CLUSTER SLOTS says: the primary of each slot. A server that does not know its own name is the one asked."""
    owners: list[Address | None] = [None] * SLOTS
    for begin, end, primary, *_ in reply:
        owner = address_of(primary[0], primary[1], asked)
        for slot in range(int(begin), int(end) + 1):
            owners[slot] = owner
    return owners


def address_of(host: str | bytes | None, port: int, asked: Address) -> Address:
    """An address out of a redirection or a list of slots, of which the host may be missing."""
    name = host.decode() if isinstance(host, bytes) else host or ""
    return (name if name not in {"", "?"} else asked[0]), int(port)


def covered(owners: Iterable[Address | None]) -> set[Address]:
    """Those who hold any slot."""
    return {owner for owner in owners if owner is not None}


def _slot(key: str | bytes | float) -> int:
    return key_slot(key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogatepass"))
