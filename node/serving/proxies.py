"""Whom a proxy speaks for: what it says in `X-Forwarded-*`, believed of the addresses in `FORWARDED_ALLOW_IPS`.

uvicorn would look at every request. Only two want all of it: sockets, whose peer is named in the log when it is turned
away, and the framework, for the address of a redirect. Shares of a caller need the address alone: see `Proxies`.
"""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, cast

from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

__all__ = ["Proxies", "behind_proxies"]

# uvicorn's own variable, and its default.
VARIABLE = "FORWARDED_ALLOW_IPS"
LOOPBACK = "127.0.0.1,::1"
_FORWARDED_FOR = b"x-forwarded-for"
# Of the addresses in one header, so many are looked at, from the end.
_MOST_HOPS = 16
# Addresses whose network, and trust, is remembered.
_REMEMBERED = 4096
# One subscriber is given as many addresses as these leave open (RFC 6177).
_IPV6_PREFIX = 64


def behind_proxies(app: Any) -> ASGIApp:
    """`app`, told of the client that the proxy names instead of the proxy."""
    return cast(ASGIApp, ProxyHeadersMiddleware(app, os.environ.get(VARIABLE, LOOPBACK)))


class Proxies:
    """The trusted proxies, and who calls through them.

    A caller is an address for now: there is one API key for all. Where credentials are of a client's own, the hash of
    the one that was shown goes into the same text, and every share is counted by both.
    """

    def __init__(self, allowed: str | None = None) -> None:
        """`allowed`: addresses and networks, separated by commas, or `*`; as the variable says if None."""
        parts = [p.strip() for p in (os.environ.get(VARIABLE, LOOPBACK) if allowed is None else allowed).split(",")]
        self._all = "*" in parts
        self._networks = [network for part in parts if (network := _network(part)) is not None]
        self._known = lru_cache(_REMEMBERED)(self._look_up)

    def trusts(self, host: str) -> bool:
        """Whether the host at this address speaks for others."""
        return self._known(host)[1]

    def caller_at(self, host: str) -> str:
        """The caller at an address: the address, or the network that an IPv6 address is one of many of."""
        return self._known(host)[0]

    def caller_of(self, client: Sequence[Any] | None, headers: Mapping[bytes, bytes]) -> str:
        """Who sends a request with these headers (by name): its peer `client`, an address and a port, or the last
        address in front of a row of trusted proxies."""
        caller, trusted = self._known(client[0] if client else "")
        if not trusted:
            return caller
        said = headers.get(_FORWARDED_FOR)
        return caller if said is None else self._last_in_front(said)

    def _last_in_front(self, said: bytes) -> str:
        caller = ""
        for hop in reversed(said.decode("latin-1").rsplit(",", _MOST_HOPS)):
            caller, trusted = self._known(hop.strip()[:64])
            if not trusted or self._all:
                break
        return caller

    def _look_up(self, host: str) -> tuple[str, bool]:
        try:
            address = ip_address(host)
        except ValueError:
            return host, self._all
        mapped = address.ipv4_mapped if address.version == 6 else None
        address = mapped or address
        trusted = self._all or any(address in network for network in self._networks)
        if address.version == 6 and not trusted:
            return str(ip_network((address, _IPV6_PREFIX), strict=False)), trusted
        return str(address), trusted


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
