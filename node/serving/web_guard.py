"""What keeps web pages from using a browser to get at a node.

A page may send requests, and open sockets, to any address that its visitor's browser reaches. Two checks stop that:

- Host. By DNS rebinding a page's own name leads to this node, and the browser takes both for one site. A node without
  an API key therefore answers only to names that no stranger can point anywhere: IP addresses, `localhost`, its own
  host name, and those in `allowed_hosts`. With a key any name will do, since a page has no key to show.
- Origin. A socket, and a request that may change something, is refused if the browser says that a page of another site
  made it, key or no key.

Programs send neither `Origin` nor `Sec-Fetch-Site`, and pass the second check.
"""

import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from node.settings import Settings

__all__ = ["Refusal", "WebGuard"]

ANY = "*"
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?P<authority>[^/?#@\s]+)")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_OWN_PAGES = frozenset({b"same-origin", b"none"})
# Different Host headers whose verdict is remembered.
_REMEMBERED = 1024

# By name: see `node.serving.headers`.
Headers = Mapping[bytes, bytes]


class Refusal(NamedTuple):
    """Why a request is not served."""

    status: int
    detail: str


NO_HOST = Refusal(400, "Host: give it exactly once, as a name or an address, with a port or without")
FOREIGN = Refusal(
    403, "This comes from a web page of another site; its origin may be listed in allowed_origins (AIP_ALLOWED_ORIGINS)"
)


class WebGuard:
    """The two checks with a node's settings."""

    def __init__(self, settings: Settings) -> None:
        self._origins = frozenset(_listed(settings.allowed_origins))
        given = [name.lower().rstrip(".") for name in _listed(settings.allowed_hosts)]
        self._any_host = ANY in given or (not given and settings.api_key is not None)
        own = ("localhost", settings.bind_host.lower(), socket.gethostname().lower())
        self._names = frozenset({*own, *given})
        self._domains = tuple(name.removeprefix(ANY) for name in given if name.startswith(f"{ANY}."))
        # Clients choose what they send: the same few again and again, or each time another.
        self._judged = lru_cache(_REMEMBERED)(self._judge)

    def refuse(self, headers: Headers, method: str | None = None, http_version: str = "1.1") -> Refusal | None:
        """Why a request of this method is not served, or no socket opened if there is none; None if it is."""
        host = headers.get(b"host")
        if host is None:
            if http_version != "1.0":
                return NO_HOST
        elif (refusal := self._judged(host)) is not None:
            return refusal
        if method in _SAFE or (b"origin" not in headers and b"sec-fetch-site" not in headers):
            return None
        return self._judge_page(headers, host or b"")

    def _judge_page(self, headers: Headers, host: bytes) -> Refusal | None:
        origin = headers.get(b"origin")
        if origin is not None:
            if origin.decode("latin-1") in self._origins:
                return None
            if not _is_at(origin, host):
                return FOREIGN
        return None if headers.get(b"sec-fetch-site", b"none") in _OWN_PAGES else FOREIGN

    def _judge(self, host: bytes) -> Refusal | None:
        parsed = _HOST.fullmatch(host.decode("latin-1"))
        if parsed is None:
            return NO_HOST
        name = parsed["name"].lower().rstrip(".")
        if self._any_host or name in self._names or name.endswith(self._domains) or _is_address(name.strip("[]")):
            return None
        return Refusal(
            421,
            f"This node does not answer to the host name '{name[:100]}': add it to allowed_hosts (AIP_ALLOWED_HOSTS), "
            "or set an api_key",
        )


def _listed(setting: str) -> list[str]:
    return [part.strip() for part in setting.split(",") if part.strip()]


def _is_address(name: str) -> bool:
    # Nobody can point an address elsewhere, as one can a name.
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_at(origin: bytes, host: bytes) -> bool:
    parsed = _ORIGIN.fullmatch(origin.decode("latin-1"))
    return parsed is not None and parsed["authority"].lower() == host.decode("latin-1").lower()
