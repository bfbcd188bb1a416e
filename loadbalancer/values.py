"""What may be written into the configuration: every value is checked here, so that none can add a directive.

Pure text in, text out. `RenderError` names the argument that is wrong.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["RenderError", "address", "line", "lines", "networks", "number", "path", "port_of", "user_name"]

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])"
_ADDRESS = re.compile(rf"({_HOST}|\*):([0-9]{{1,5}})")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
# In a quoted nginx string these end it, escape, or begin a variable.
_UNSAFE_IN_PATH = re.compile(r'["$\\\x00-\x1f\x7f]')


class RenderError(ValueError):
    """An argument that cannot be written into a configuration; the text names it."""


def address(name: str, value: str, *, wildcard: bool = False) -> str:
    """`host:port`; with `wildcard` also `*:port`. Raises RenderError."""
    match = _ADDRESS.fullmatch(value)
    if not match or not 1 <= int(match[2]) <= 65_535 or (match[1] == "*" and not wildcard):
        raise RenderError(f"{name}: {value!r} is not host:port")
    return value


def port_of(checked: str) -> int:
    """The port of an address that `address` has let through."""
    return int(checked.rpartition(":")[2])


def networks(name: str, values: Sequence[str]) -> list[str]:
    """Networks, `10.0.0.0/8`, or single addresses. Raises RenderError."""
    try:
        return [str(ipaddress.ip_network(value)) for value in values]
    except ValueError as exc:
        raise RenderError(f"{name}: {exc}") from None


def path(name: str, value: Path | str) -> str:
    """An absolute path, as it may stand between quotes. Raises RenderError."""
    text = str(value)
    if not text.startswith("/"):
        raise RenderError(f"{name}: {text!r} is not an absolute path")
    if _UNSAFE_IN_PATH.search(text):
        raise RenderError(f"{name}: {text!r} contains a character that nginx cannot take in a path")
    return text


def user_name(name: str, value: str) -> str:
    """The name of a user of the machine. Raises RenderError."""
    if not _USER.fullmatch(value):
        raise RenderError(f"{name}: {value!r} is not allowed")
    return value


def number(name: str, value: int, *, least: int) -> int:
    """A whole number that is not below `least`. Raises RenderError."""
    if value < least:
        raise RenderError(f"{name}: {value} is less than {least}")
    return value


def line(directive: str, *, depth: int) -> str:
    """A directive on a line of its own."""
    return f"{'    ' * depth}{directive};\n"


def lines(directives: Iterable[str], *, depth: int) -> str:
    """Directives, each on a line of its own."""
    return "".join(line(directive, depth=depth) for directive in directives)
