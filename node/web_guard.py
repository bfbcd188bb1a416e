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
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from node.settings import Settings

__all__ = ["Refusal", "WebGuard"]

ANY = "*"
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?P<authority>[^/?#@\s]+)")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_OF_BROWSERS = frozenset({b"origin", b"sec-fetch-site"})
_OWN_PAGES = frozenset({b"same-origin", b"none"})
# Different Host headers whose verdict is remembered.
_REMEMBERED = 1024

# With names in lower case, as ASGI has them.
Headers = Sequence[tuple[bytes, bytes]]


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

    def refuse_host(self, headers: Headers, http_version: str = "1.1") -> Refusal | None:
        """Why the node does not answer to the name that it was asked by; None if it does."""
        host = None
        for name, value in headers:
            if name == b"host":
                if host is not None:
                    return NO_HOST
                host = value
        if host is None:
            return None if http_version == "1.0" else NO_HOST
        return self._judged(host)

    def refuse_origin(self, headers: Headers, method: str | None = None) -> Refusal | None:
        """Why a page may not send a request of this method, or open a socket if there is none; None if it may."""
        if method in _SAFE:
            return None
        # As good as all requests are made by programs.
        for name, _ in headers:
            if name in _OF_BROWSERS:
                return self._refuse_page(headers)
        return None

    def _refuse_page(self, headers: Headers) -> Refusal | None:
        host, origins, sites = b"", list[bytes](), list[bytes]()
        for name, value in headers:
            if name == b"origin":
                origins.append(value)
            elif name == b"sec-fetch-site":
                sites.append(value)
            elif name == b"host":
                host = value
        if origins and all(origin.decode("latin-1") in self._origins for origin in origins):
            return None
        same = all(_is_at(origin, host) for origin in origins) and _OWN_PAGES.issuperset(sites)
        return None if same else FOREIGN

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
