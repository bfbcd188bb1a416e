"""What a `redis_url` says: which servers, as whom, over what kind of line.

    redis://[user:password@]host[:port][/db]                       one server, or a proxy that looks like one
    unix://[user:password@]/path/of/socket[?db=n]                  one server on this machine
    redis+sentinel://[user:password@]host[:port],.../service[/db]  the primary that these sentinels name
    redis+cluster://[user:password@]host[:port],...                a Redis Cluster that these servers belong to
    embedded://[name]                                              inside this process (package fakeredis)

With `rediss` in place of `redis` every line is TLS, the sentinels' too. User and password are percent-encoded, and are
those of the servers that hold the data. Parameters behind `?`, all optional:

| parameter | means |
|---|---|
| `db` | number of the database, where the path does not say it |
| `username`, `password` | in place of those before the `@` |
| `ssl_ca_certs` | file of the authority that vouches for the servers; else the system's |
| `ssl_certfile`, `ssl_keyfile` | certificate and key that this client shows |
| `ssl_cert_reqs` | `required` (default), `optional` or `none` |
| `ssl_check_hostname` | `true` (default) or `false` |
| `sentinel_username`, `sentinel_password` | for the sentinels, which have users of their own |
| `sentinel_ssl` | `true` or `false`, where the sentinels' lines differ from the servers' |

A parameter that is not listed is refused: a misspelt one would be off without a word. No error holds a password.
"""

from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

__all__ = ["Address", "Target", "parse_redis_url", "with_passwords"]

Address = tuple[str, int]
Kind = Literal["single", "sentinel", "cluster", "embedded"]

REDIS_PORT = 6379
SENTINEL_PORT = 26379

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("single", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "embedded": ("embedded", False),
}
_TLS_PARAMETERS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_COMMON_PARAMETERS = {"db", "username", "password", *_TLS_PARAMETERS}
_SENTINEL_PARAMETERS = {"sentinel_username", "sentinel_password", "sentinel_ssl"}


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed URL. `addresses` are servers, or sentinels; `options` are redis-py's for a line to a server that holds
    data, `sentinel_options` for one to a sentinel."""

    kind: Kind
    addresses: tuple[Address, ...] = ()
    path: str = ""
    service: str = ""
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)


def parse_redis_url(url: str) -> Target:
    """Raises ValueError, beginning with `redis_url:` and naming what is wrong."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("redis_url: cannot be read") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"redis_url: scheme {parts.scheme!r} is not supported; use one of {', '.join(_SCHEMES)}")
    kind, tls = _SCHEMES[parts.scheme]
    if kind == "embedded":
        return Target(kind, name=parts.netloc or "default")
    given = _parameters(parts, kind)
    options = _credentials(parts, given)
    if tls:
        options |= _tls_options(given)
    elif any(name in given for name in _TLS_PARAMETERS):
        raise ValueError("redis_url: ssl_ parameters need a scheme with TLS: rediss")
    if parts.scheme == "unix":
        return Target(kind, path=unquote(parts.path), options=options | _database(given.get("db", "")))
    addresses = _addresses(parts, SENTINEL_PORT if kind == "sentinel" else REDIS_PORT)
    path = [unquote(p) for p in parts.path.split("/") if p]
    service = ""
    if kind == "sentinel":
        if not path:
            raise ValueError("redis_url: the name of the service is missing: redis+sentinel://host:port/service")
        service = path.pop(0)
    if len(path) > 1 or (kind == "cluster" and (path or "db" in given)):
        raise ValueError("redis_url: the path is too long; a Cluster has only one database")
    if kind == "single" and len(addresses) > 1:
        raise ValueError("redis_url: several servers need redis+sentinel:// or redis+cluster://")
    return Target(
        kind,
        addresses,
        service=service,
        options=options | _database(path[0] if path else given.get("db", "")),
        sentinel_options=_sentinel_options(given, tls=tls) if kind == "sentinel" else {},
    )


def with_passwords(url: str, password: str | None, sentinel_password: str | None) -> str:
    """`url` with passwords that came apart from it, as from a secret, where they need no percent-encoding.

    Raises ValueError if the URL has that password already, or knows of none.
    """
    for name, given in (("password", password), ("sentinel_password", sentinel_password)):
        if given is None:
            continue
        target = parse_redis_url(url)
        options = target.sentinel_options if name == "sentinel_password" else target.options
        if target.kind == "embedded" or (name == "sentinel_password" and target.kind != "sentinel"):
            raise ValueError(f"redis_{name}: this kind of redis_url takes no password")
        if options.get("password"):
            raise ValueError(f"redis_{name}: the redis_url already has a password")
        url += f"{'&' if '?' in url else '?'}{name}={quote(given, safe='')}"
    return url


def _parameters(parts: SplitResult, kind: Kind) -> dict[str, str]:
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = _COMMON_PARAMETERS | (_SENTINEL_PARAMETERS if kind == "sentinel" else set())
    for name in given:
        if name not in known:
            raise ValueError(f"redis_url: parameter {name!r} is unknown; use one of {', '.join(sorted(known))}")
    return given


def _credentials(parts: SplitResult, given: dict[str, str]) -> dict[str, Any]:
    username = given.get("username") or unquote(parts.username or "")
    password = given.get("password") or unquote(parts.password or "")
    return {"username": username or None, "password": password or None}


def _database(text: str) -> dict[str, Any]:
    if not text:
        return {"db": 0}
    if not text.isascii() or not text.isdigit():
        raise ValueError("redis_url: the database must be a number")
    return {"db": int(text)}


def _tls_options(given: dict[str, str]) -> dict[str, Any]:
    requires = given.get("ssl_cert_reqs", "required")
    if requires not in {"required", "optional", "none"}:
        raise ValueError("redis_url: ssl_cert_reqs must be required, optional or none")
    options: dict[str, Any] = {"ssl": True, "ssl_cert_reqs": requires}
    options["ssl_check_hostname"] = _is_true("ssl_check_hostname", given.get("ssl_check_hostname", "true"))
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if given.get(name):
            options[name] = given[name]
    return options


def _sentinel_options(given: dict[str, str], *, tls: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "username": given.get("sentinel_username") or None,
        "password": given.get("sentinel_password") or None,
    }
    if _is_true("sentinel_ssl", given.get("sentinel_ssl", str(tls).lower())):
        options |= _tls_options(given)
    return options


def _is_true(name: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError(f"redis_url: {name} must be true or false")
    return text == "true"


def _addresses(parts: SplitResult, default_port: int) -> tuple[Address, ...]:
    hosts = parts.netloc.rpartition("@")[2]
    addresses = []
    for host in hosts.split(","):
        name, bracket, rest = host.partition("]") if host.startswith("[") else ("", "", "")
        if bracket:
            name, port = name[1:], rest.removeprefix(":")
        else:
            name, _, port = host.partition(":")
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise ValueError("redis_url: a port must be a number from 1 to 65535")
        addresses.append((name or "localhost", int(port or default_port)))
    return tuple(addresses)
