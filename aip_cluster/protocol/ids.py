"""Identifiers and time stamps as they appear on the wire, and the rules that names given by others must keep."""

import os
import re
import time
from datetime import UTC, datetime
from functools import lru_cache

from aip_cluster.protocol.errors import ProtocolError

__all__ = [
    "check_client_id",
    "check_session_id",
    "check_task_name",
    "check_task_path",
    "made_ms",
    "new_id",
    "now_ms",
    "utc_now",
]

MAX_ID_CHARS = 256

# All that UFO's clients make up, and nothing that looks like something else: zero-width, bidirectional and full-width
# characters would let one id pass for another, control characters forge log lines and headers, braces move a key to
# another slot of a Redis Cluster.
_ID = re.compile(r"[A-Za-z0-9._@:/-]+")
_TASK_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_TASK_SEGMENT = re.compile(r"[A-Za-z0-9._@ +~,()=-]+")

_VARIANT = {digit: "89ab"[number & 3] for number, digit in enumerate("0123456789abcdef")}
# Random ends of ids, drawn and not used yet; each is used once. A process that forks would have to clear it: none here
# does.
_ends: list[str] = []


def new_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7) in its canonical form, 62 bits of it random.

    Sorts by the time of its creation, to a quarter of a microsecond (section 6.2, method 3).
    """
    if not _ends:
        _draw()
    at_ms, ns = divmod(time.time_ns(), 1_000_000)
    return f"{_beginning(at_ms)}-7{(ns << 12) // 1_000_000:03x}-{_ends.pop()}"


def made_ms(made_id: str) -> int:
    """When an id was made by `new_id`, ms since the epoch. Raises ValueError for what does not begin like one."""
    return int(made_id[:8] + made_id[9:13], 16)


def _draw() -> None:
    # A call to the system costs more than all the rest.
    drawn = os.urandom(8 * 128).hex()
    for at in range(0, len(drawn), 16):
        rest = drawn[at : at + 16]
        # The variant in two bits of the digit that the random one is mapped to.
        _ends.append(f"{_VARIANT[rest[0]]}{rest[1:4]}-{rest[4:]}")


@lru_cache(maxsize=1)
def _beginning(at_ms: int) -> str:
    # Several ids are made within one millisecond.
    at = f"{at_ms:012x}"
    return f"{at[:8]}-{at[8:12]}"


def utc_now() -> str:
    """The current time in UTC as ISO 8601, the form of every `timestamp` field."""
    second, part = divmod(time.time_ns() // 1_000, 1_000_000)
    return f"{_to_the_second(second)}.{part:06d}+00:00"


@lru_cache(maxsize=1)
def _to_the_second(seconds: int) -> str:
    # Thousands of messages are written in one second.
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def now_ms() -> int:
    """Milliseconds since the epoch by this machine's clock."""
    return time.time_ns() // 1_000_000


def _check(value: str, field: str, pattern: re.Pattern[str], rule: str) -> str:
    if len(value) > MAX_ID_CHARS:
        raise ProtocolError(f"is longer than {MAX_ID_CHARS} characters", field=field)
    if not pattern.fullmatch(value):
        raise ProtocolError(rule, field=field)
    return value


def check_client_id(value: str, field: str = "client_id") -> str:
    """Return `value` if it may name a client: 1 to 256 of the characters `[A-Za-z0-9._@:/-]`, no part of it a dot file.

    Raises ProtocolError, naming `field`, otherwise.
    """
    rule = "must be letters, digits and any of . _ @ : / -, with no leading dot and no '..'"
    _check(value, field, _ID, rule)
    if value[:1] == "." or "/." in value or ".." in value:
        raise ProtocolError(rule, field=field)
    return value


def check_session_id(value: str, field: str = "session_id") -> str:
    """Return `value` if it may name a session; the rule is that of a client id."""
    return check_client_id(value, field)


def check_task_name(value: str, field: str = "task_name") -> str:
    """Return `value` if it keeps UFO's rule for task names: `[A-Za-z0-9._-]`, no leading dot.

    Raises ProtocolError, naming `field`, otherwise.
    """
    return _check(value, field, _TASK_NAME, "may hold only letters, digits, '.', '_' and '-', and no leading dot")


def check_task_path(value: str, field: str = "task_name") -> str:
    """Return `value` if it may be a task name on the wire, where orchestrators write paths (`galaxy/run/step`).

    Of letters, digits, spaces within and `._@+~,()=-`; no empty segment, none with a leading dot: no reader of the
    name can be led to another folder, or take it for another. Raises ProtocolError, naming `field`, otherwise.
    """
    if len(value) > MAX_ID_CHARS:
        raise ProtocolError(f"is longer than {MAX_ID_CHARS} characters", field=field)
    for segment in value.split("/"):
        if segment.startswith((".", " ")) or segment.endswith(" ") or not _TASK_SEGMENT.fullmatch(segment):
            raise ProtocolError(
                "must be plain names joined by '/': letters, digits, spaces within and any of ._@+~,()=-, "
                "no empty part and no leading dot",
                field=field,
            )
    return value
