"""Fills in `nginx.conf.tmpl`: which nodes, where to listen, where its files go.

Pure text in, text out; nginx itself is neither needed nor started. Every value that reaches the configuration
is checked first, so that no argument can add a directive of its own; `RenderError` names the wrong one.

    python -m loadbalancer.render --listen 127.0.0.1:5000 --node 127.0.0.1:5001 --node 127.0.0.1:5002
"""

import argparse
import ipaddress
import re
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["DEFAULT_BODY_LIMIT_BYTES", "RenderError", "render"]

TEMPLATE = Path(__file__).with_name("nginx.conf.tmpl")
# The node's own limit for a REST body. Frames on a WebSocket are the node's business alone.
DEFAULT_BODY_LIMIT_BYTES = 2 * 1024 * 1024
# The node's own limit for a file of a session.
DEFAULT_FILE_LIMIT_BYTES = 100 * 1024 * 1024

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])"
_ADDRESS = re.compile(rf"({_HOST}|\*):([0-9]{{1,5}})")
_ZONE = "aip_addresses"
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
# `@{name}` in the template: nginx's own variables begin with a dollar, its named locations with a bare `@`.
_PLACE = re.compile(r"@\{([a-z_]+)\}")
# In a quoted nginx string these end it, escape, or begin a variable.
_UNSAFE_IN_PATH = re.compile(r'["$\\\x00-\x1f\x7f]')


class RenderError(ValueError):
    """An argument that cannot be written into a configuration; the text names it."""


def render(
    nodes: Sequence[str],
    listen: str,
    run_dir: Path,
    *,
    user: str | None = None,
    body_limit_bytes: int = DEFAULT_BODY_LIMIT_BYTES,
    file_limit_bytes: int = DEFAULT_FILE_LIMIT_BYTES,
    worker_processes: int | None = None,
    worker_connections: int = 16_384,
    connections_per_address: int = 0,
    drain_seconds: int = 300,
    access_log: str | None = None,
    error_log: str | None = None,
    tls: tuple[Path, Path] | None = None,
    trusted_proxies: Sequence[str] = (),
) -> str:
    """The configuration for `nginx -c` as text.

    `nodes` and `listen` are `host:port`; `run_dir` receives the pid file, the temporary files and, unless
    `access_log` or `error_log` say otherwise ("off" for no access log), the logs. `user` is for a master that
    root starts; None leaves the choice to nginx. `connections_per_address` 0 is no limit. `tls` is the
    certificate chain and its key. `trusted_proxies` are networks whose X-Forwarded-For is believed.
    Raises RenderError.
    """
    if not nodes:
        raise RenderError("nodes: at least one is needed")
    if len(set(nodes)) != len(nodes):
        raise RenderError("nodes: the same address is given twice")
    base = _path("run_dir", run_dir)
    error = _path("error_log", error_log or run_dir / "nginx-error.log")
    access = "off"
    if access_log != "off":
        access = f'"{_path("access_log", access_log or run_dir / "nginx-access.log")}" aip_json'
        access += " buffer=64k flush=1s"
    limit = _number("connections_per_address", connections_per_address, least=0)
    connections = _number("worker_connections", worker_connections, least=16)
    workers = "auto" if worker_processes is None else _number("worker_processes", worker_processes, least=1)
    values: dict[str, object] = {
        "user": "" if user is None else f"user {_matching('user', user, _USER)};\n",
        "worker_processes": workers,
        "worker_connections": connections,
        # A proxied connection is two sockets; the rest is for logs, listeners and temporary files.
        "open_files": 2 * connections + 1024,
        "drain_seconds": _number("drain_seconds", drain_seconds, least=1),
        "run_dir": base,
        "access_log": access,
        "error_log": f'"{error}"',
        "body_limit_bytes": _number("body_limit_bytes", body_limit_bytes, least=1),
        "file_limit_bytes": _number("file_limit_bytes", file_limit_bytes, least=1),
        "listen": _address("listen", listen, wildcard=True) + (" ssl" if tls else "") + " backlog=4096",
        "servers": "\n".join(f"        server {_address('node', node)} max_fails=3 fail_timeout=5s;" for node in nodes),
        # No node is left out for refusing: while a herd reconnects all of them do, and a balancer that has given
        # everybody up says 502 and knows no Retry-After. One that is down refuses the connection, which is quick.
        "socket_servers": "\n".join(f"        server {node} max_fails=0;" for node in nodes),
        "limit_zone": _line(f"limit_conn_zone $binary_remote_addr zone={_ZONE}:10m", depth=1) if limit else "",
        "limit": _lines(f"limit_conn {_ZONE} {limit}", "limit_conn_status 429") if limit else "",
        "tls": _tls(*tls) if tls else "",
        "real_ip": _real_ip(trusted_proxies),
    }
    return _PLACE.sub(lambda place: str(values[place[1]]), TEMPLATE.read_text(encoding="utf-8"))


def _tls(certificate: Path, key: Path) -> str:
    return _lines(
        f'ssl_certificate "{_path("tls certificate", certificate)}"',
        f'ssl_certificate_key "{_path("tls key", key)}"',
        "ssl_protocols TLSv1.2 TLSv1.3",
        "ssl_session_cache shared:aip_tls:10m",
        "ssl_session_timeout 1d",
        "ssl_session_tickets off",
    )


def _real_ip(trusted: Sequence[str]) -> str:
    if not trusted:
        return ""
    try:
        networks = [ipaddress.ip_network(item) for item in trusted]
    except ValueError as exc:
        raise RenderError(f"trusted_proxies: {exc}") from None
    return _lines(
        *(f"set_real_ip_from {network}" for network in networks),
        "real_ip_header X-Forwarded-For",
        "real_ip_recursive on",
    )


def _lines(*directives: str) -> str:
    return "".join(_line(directive, depth=2) for directive in directives)


def _line(directive: str, *, depth: int) -> str:
    return f"{'    ' * depth}{directive};\n"


def _matching(name: str, value: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(value):
        raise RenderError(f"{name}: {value!r} is not allowed")
    return value


def _address(name: str, value: str, *, wildcard: bool = False) -> str:
    match = _ADDRESS.fullmatch(value)
    if not match or not 1 <= int(match[2]) <= 65_535 or (match[1] == "*" and not wildcard):
        raise RenderError(f"{name}: {value!r} is not host:port")
    return value


def _path(name: str, value: Path | str) -> str:
    text = str(value)
    if not text.startswith("/"):
        raise RenderError(f"{name}: {text!r} is not an absolute path")
    if _UNSAFE_IN_PATH.search(text):
        raise RenderError(f"{name}: {text!r} contains a character that nginx cannot take in a path")
    return text


def _number(name: str, value: int, *, least: int) -> int:
    if value < least:
        raise RenderError(f"{name}: {value} is less than {least}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: prints the configuration, or writes it to `--output`."""
    parser = argparse.ArgumentParser(prog="python -m loadbalancer.render", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--node", required=True, action="append", metavar="HOST:PORT", dest="nodes")
    parser.add_argument("--run-dir", type=Path, default=Path("/run/aip-nginx"), help="default: %(default)s")
    parser.add_argument("--user", help="user of the worker processes, when started by root")
    parser.add_argument("--body-limit-bytes", type=int, default=DEFAULT_BODY_LIMIT_BYTES)
    parser.add_argument("--file-limit-bytes", type=int, default=DEFAULT_FILE_LIMIT_BYTES)
    parser.add_argument("--worker-processes", type=int, help="default: one per processor")
    parser.add_argument("--worker-connections", type=int, default=16_384, help="default: %(default)s")
    parser.add_argument("--connections-per-address", type=int, default=0, help="default: no limit")
    parser.add_argument("--drain-seconds", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--access-log", help="a file, /dev/stdout, or off (default: in the run directory)")
    parser.add_argument("--error-log", help="a file or /dev/stderr (default: in the run directory)")
    parser.add_argument("--tls", nargs=2, type=Path, metavar=("CERTIFICATE", "KEY"))
    parser.add_argument("--trusted-proxy", action="append", default=[], metavar="NETWORK")
    parser.add_argument("--output", type=Path, help="default: standard output")
    options = vars(parser.parse_args(argv))
    output: Path | None = options.pop("output")
    options["tls"] = tuple(options["tls"]) if options["tls"] else None
    options["trusted_proxies"] = options.pop("trusted_proxy")
    try:
        text = render(**options)
    except RenderError as exc:
        parser.error(str(exc))
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
