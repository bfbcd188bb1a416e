"""Fills in `nginx.conf.tmpl`: which nodes, where to listen, what is limited, where its files go.

Pure text in, text out; nginx itself is neither needed nor started. Every value that reaches the configuration
is checked first, so that no argument can add a directive of its own; `RenderError` names the wrong one.

    python -m loadbalancer.render --listen 127.0.0.1:5000 --node 127.0.0.1:5001 --node 127.0.0.1:5002
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from loadbalancer.values import RenderError, address, line, lines, networks, number, path, port_of, user_name

__all__ = ["DEFAULT_BODY_LIMIT_BYTES", "DEFAULT_FILE_LIMIT_BYTES", "RenderError", "render"]

TEMPLATE = Path(__file__).with_name("nginx.conf.tmpl")
# The node's own limit for a REST body. Frames on a WebSocket are the node's business alone.
DEFAULT_BODY_LIMIT_BYTES = 2 * 1024 * 1024
# The node's own limit for a file of a session.
DEFAULT_FILE_LIMIT_BYTES = 100 * 1024 * 1024
DEFAULT_DRAIN_SECONDS = 3600
# Whoever runs on the machine of nginx.
LOOPBACK = ("127.0.0.0/8", "::1/128")
HTTPS_PORT = 443
MOST_TRIES = 3

# `@{name}` in the template: nginx's own variables begin with a dollar, its named locations with a bare `@`.
_PLACE = re.compile(r"@\{([a-z_]+)\}")
# Forward secrecy and authenticated encryption only; what TLS 1.3 has is all of that kind.
_CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
_HSTS_SECONDS = 2 * 365 * 86_400


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
    requests_per_second: int = 0,
    request_burst: int | None = None,
    unlimited: Sequence[str] = (),
    drain_seconds: int = DEFAULT_DRAIN_SECONDS,
    access_log: str | None = None,
    error_log: str | None = None,
    tls: tuple[Path, Path] | None = None,
    redirect_listen: str | None = None,
    admin_listen: str | None = None,
    admin_from: Sequence[str] = LOOPBACK,
    trusted_proxies: Sequence[str] = (),
) -> str:
    """The configuration for `nginx -c` as text.

    `nodes`, `listen`, `redirect_listen` (plain HTTP, sent on to `listen`) and `admin_listen` are `host:port`;
    `run_dir` receives the pid file, the temporary files and, unless `access_log` or `error_log` say otherwise ("off"
    for no access log), the logs. `user` is for a master that root starts; None leaves the choice to nginx.
    `connections_per_address` and `requests_per_second`, for each address, are no limits if 0; `request_burst` is ten
    seconds' worth unless given; addresses in the networks of `unlimited` have none. `drain_seconds`: how long the
    workers of before a reload keep their sockets; 0 is until the last is closed. `tls` is the certificate chain and
    its key. `admin_from` are the networks that `admin_listen` answers. `trusted_proxies` are networks whose
    X-Forwarded-For and X-Forwarded-Proto are believed. Raises RenderError.
    """
    if not nodes:
        raise RenderError("nodes: at least one is needed")
    if len(set(nodes)) != len(nodes):
        raise RenderError("nodes: the same address is given twice")
    servers = [address("node", node) for node in nodes]
    public = address("listen", listen, wildcard=True)
    base = path("run_dir", run_dir)
    error = f'"{path("error_log", error_log or run_dir / "nginx-error.log")}"'
    access = "off"
    if access_log != "off":
        access = f'"{path("access_log", access_log or run_dir / "nginx-access.log")}" aip_json buffer=64k flush=1s'
    if redirect_listen is not None and tls is None:
        raise RenderError("redirect_listen: without tls there is nothing to be sent on to")
    connections = number("worker_connections", worker_connections, least=16)
    drain = number("drain_seconds", drain_seconds, least=0)
    zones, limits = _limits(
        number("connections_per_address", connections_per_address, least=0),
        number("requests_per_second", requests_per_second, least=0),
        number("request_burst", 10 * requests_per_second if request_burst is None else request_burst, least=0),
        networks("unlimited", unlimited),
    )
    real_ip_maps, real_ip, scheme = _real_ip(networks("trusted_proxies", trusted_proxies))
    values: dict[str, object] = {
        "user": "" if user is None else line(f"user {user_name('user', user)}", depth=0),
        "worker_processes": "auto"
        if worker_processes is None
        else number("worker_processes", worker_processes, least=1),
        "worker_connections": connections,
        # A proxied connection is two sockets; the rest is for logs, listeners and temporary files.
        "open_files": 2 * connections + 1024,
        "shutdown_timeout": "# After a reload the old workers keep their sockets for this long, then close them.\n"
        + line(f"worker_shutdown_timeout {drain}s", depth=0)
        if drain
        else "# After a reload the old workers keep their sockets until the last of them is closed.\n",
        "run_dir": base,
        "access_log": access,
        "error_log": error,
        "body_limit_bytes": number("body_limit_bytes", body_limit_bytes, least=1),
        "file_limit_bytes": number("file_limit_bytes", file_limit_bytes, least=1),
        "listen": public + (" ssl" if tls else "") + " backlog=4096",
        "servers": "\n".join(f"        server {node} max_fails=1 fail_timeout=5s;" for node in servers),
        "last_servers": "\n".join(f"        server {node} max_fails=0 backup;" for node in servers),
        "tries": min(MOST_TRIES, len(servers)),
        # No node is left out for refusing a socket: while a herd reconnects all of them do, and the one that has
        # room is the one with the fewest sockets, which is asked first. One that is down refuses, which is quick.
        "socket_servers": "\n".join(f"        server {node} max_fails=0;" for node in servers),
        "limit_zones": zones,
        "limits": limits,
        "tls": _tls(*tls) if tls else "",
        "tls_protocol": "$ssl_protocol" if tls else "",
        "strict_transport": line(f'add_header Strict-Transport-Security "max-age={_HSTS_SECONDS}" always', depth=1)
        if tls
        else "",
        "redirect": _redirect(address("redirect_listen", redirect_listen, wildcard=True), port_of(public))
        if redirect_listen
        else "",
        "admin": _admin(
            address("admin_listen", admin_listen, wildcard=True), networks("admin_from", admin_from), servers, error
        )
        if admin_listen
        else "",
        "real_ip_maps": real_ip_maps,
        "real_ip": real_ip,
        "scheme": scheme,
    }
    return _PLACE.sub(lambda place: str(values[place[1]]), TEMPLATE.read_text(encoding="utf-8"))


def _limits(connections: int, requests: int, burst: int, unlimited: list[str]) -> tuple[str, str]:
    """What each address may have: the zones, and what the server says of them."""
    if not connections and not requests:
        return "", ""
    # A request whose key is empty is not counted.
    zones = [
        _block("geo $aip_is_limited", ["default 1", *(f"{network} 0" for network in unlimited)]),
        _block("map $aip_is_limited $aip_address", ['default ""', "1 $binary_remote_addr"]),
    ]
    limits = []
    if connections:
        zones.append(line("limit_conn_zone $aip_address zone=aip_connections:10m", depth=1))
        limits += [f"limit_conn aip_connections {connections}", "limit_conn_status 429"]
    if requests:
        zones.append(line(f"limit_req_zone $aip_address zone=aip_requests:10m rate={requests}r/s", depth=1))
        limits += [f"limit_req zone=aip_requests burst={burst} nodelay", "limit_req_status 429"]
    return "".join(zones), lines(limits, depth=2)


def _tls(certificate: Path, key: Path) -> str:
    return lines(
        (
            f'ssl_certificate "{path("tls certificate", certificate)}"',
            f'ssl_certificate_key "{path("tls key", key)}"',
            "ssl_protocols TLSv1.2 TLSv1.3",
            f"ssl_ciphers {_CIPHERS}",
            "ssl_prefer_server_ciphers off",
            "ssl_session_cache shared:aip_tls:10m",
            "ssl_session_timeout 1d",
            "ssl_session_tickets off",
        ),
        depth=2,
    )


def _redirect(listen: str, port: int) -> str:
    """A server for plain HTTP that sends everybody to `port` of the same name; 308 keeps method and body."""
    where = "https://$host" + ("" if port == HTTPS_PORT else f":{port}")
    return _server([f"listen {listen} backlog=4096", f"return 308 {where}$request_uri"])


def _admin(listen: str, allowed: list[str], nodes: list[str], error_log: str) -> str:
    """A server for operators: nginx's own counts, and every node by its address, whatever it serves."""
    said = "default_type application/json"
    places = [
        "        location = /status {\n            stub_status;\n        }\n",
        "        location @not_allowed {\n"
        + lines([said, """return 403 '{"detail":"not from this address"}'"""], depth=3)
        + "        }\n",
        "        location / {\n"
        + lines([said, """return 404 '{"detail":"there are /status and /nodes/HOST:PORT/..."}'"""], depth=3)
        + "        }\n",
        *(
            f'        location ^~ "/nodes/{node}/" {{\n'
            + lines([f"error_log {error_log} emerg", f"proxy_pass http://{node}/"], depth=3)
            + "        }\n"
            for node in nodes
        ),
    ]
    rules = [f"allow {network}" for network in allowed]
    return _server([f"listen {listen}", *rules, "deny all", "error_page 403 @not_allowed"], "".join(places))


def _server(directives: Sequence[str], places: str = "") -> str:
    return f"\n    server {{\n{lines(directives, depth=2)}{places}    }}\n"


def _real_ip(trusted: list[str]) -> tuple[str, str, str]:
    """Behind other proxies: the maps, what the server says of them, and the scheme that the client used."""
    if not trusted:
        return "", "", "$scheme"
    maps = _block("geo $realip_remote_addr $aip_is_proxy", ["default 0", *(f"{network} 1" for network in trusted)])
    maps += _block(
        'map "$aip_is_proxy $http_x_forwarded_proto" $aip_scheme',
        ["default $scheme", '"1 http" http', '"1 https" https'],
    )
    found = lines(
        (
            *(f"set_real_ip_from {network}" for network in trusted),
            "real_ip_header X-Forwarded-For",
            "real_ip_recursive on",
        ),
        depth=2,
    )
    return maps, found, "$aip_scheme"


def _block(head: str, directives: Sequence[str]) -> str:
    return f"    {head} {{\n{lines(directives, depth=2)}    }}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: prints the configuration, or writes it to `--output`."""
    parser = argparse.ArgumentParser(prog="python -m loadbalancer.render", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--listen", required=True, metavar="HOST:PORT")
    add("--node", required=True, action="append", metavar="HOST:PORT", dest="nodes")
    add("--run-dir", type=Path, default=Path("/run/aip-nginx"), help="default: %(default)s")
    add("--user", help="user of the worker processes, when started by root")
    add("--body-limit-bytes", type=int, default=DEFAULT_BODY_LIMIT_BYTES, help="as the nodes' AIP_MAX_BODY_BYTES")
    add("--file-limit-bytes", type=int, default=DEFAULT_FILE_LIMIT_BYTES, help="as the nodes' AIP_MAX_FILE_BYTES")
    add("--worker-processes", type=int, help="default: one per processor")
    add("--worker-connections", type=int, default=16_384, help="default: %(default)s")
    add("--connections-per-address", type=int, default=0, help="default: no limit")
    add("--requests-per-second", type=int, default=0, help="of one address; default: no limit")
    add("--request-burst", type=int, help="default: ten seconds' worth")
    add("--unlimited", action="append", default=[], metavar="NETWORK", help="addresses without these limits")
    add("--drain-seconds", type=int, default=DEFAULT_DRAIN_SECONDS, help="default: %(default)s; 0: for ever")
    add("--access-log", help="a file, /dev/stdout, or off (default: in the run directory)")
    add("--error-log", help="a file or /dev/stderr (default: in the run directory)")
    add("--tls", nargs=2, type=Path, metavar=("CERTIFICATE", "KEY"))
    add("--redirect-listen", metavar="HOST:PORT", help="plain HTTP here is sent on to --listen; with --tls")
    add("--admin-listen", metavar="HOST:PORT", help="for operators: /status and /nodes/HOST:PORT/…")
    add("--admin-from", action="append", metavar="NETWORK", help="who may ask it; default: this machine")
    add("--trusted-proxy", action="append", default=[], metavar="NETWORK", dest="trusted_proxies")
    add("--output", type=Path, help="default: standard output")
    options = vars(parser.parse_args(argv))
    output: Path | None = options.pop("output")
    options["tls"] = tuple(options["tls"]) if options["tls"] else None
    options["admin_from"] = options["admin_from"] or LOOPBACK
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
