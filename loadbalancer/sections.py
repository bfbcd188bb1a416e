"""The parts of the configuration that are there or not, or as often as there are nodes: each written from its values.

What comes in was checked (`values`), except for paths, which are checked here. Most answer for several places of the
template, each by its name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from loadbalancer.values import line, lines, path

__all__ = ["Places", "admin", "limits", "processes", "real_ip", "redirect", "tls", "upstreams"]

# What goes where in the template.
Places = Mapping[str, object]

HTTPS_PORT = 443
MOST_TRIES = 3
# Forward secrecy and authenticated encryption only; what TLS 1.3 has is all of that kind.
_CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
_HSTS_SECONDS = 2 * 365 * 86_400


def processes(user: str | None, workers: int | None, connections: int, drain_seconds: int) -> Places:
    """Who runs, how many of them, and how long after a reload. `workers` None: one per processor."""
    drain = "# After a reload the old workers keep their sockets until the last of them is closed.\n"
    if drain_seconds:
        drain = "# After a reload the old workers keep their sockets for this long, then close them.\n"
        drain += line(f"worker_shutdown_timeout {drain_seconds}s", depth=0)
    return {
        "user": "" if user is None else line(f"user {user}", depth=0),
        "worker_processes": "auto" if workers is None else workers,
        "worker_connections": connections,
        # A proxied connection is two sockets; the rest is for logs, listeners and temporary files.
        "open_files": 2 * connections + 1024,
        "shutdown_timeout": drain,
    }


def upstreams(nodes: Sequence[str]) -> Places:
    """The nodes, for requests and for sockets."""
    return {
        "servers": _servers(nodes, "max_fails=1 fail_timeout=5s"),
        "last_servers": _servers(nodes, "max_fails=0 backup"),
        "tries": min(MOST_TRIES, len(nodes)),
        # No node is left out for refusing a socket: while a herd reconnects all of them do, and the one that has
        # room is the one with the fewest sockets, which is asked first. One that is down refuses, which is quick.
        "socket_servers": _servers(nodes, "max_fails=0"),
    }


def limits(connections: int, requests: int, burst: int, unlimited: list[str]) -> Places:
    """What each address may have: the zones, and what the server says of them."""
    if not connections and not requests:
        return {"limit_zones": "", "limits": ""}
    # A request whose key is empty is not counted.
    zones = [
        _block("geo $aip_is_limited", ["default 1", *(f"{network} 0" for network in unlimited)]),
        _block("map $aip_is_limited $aip_address", ['default ""', "1 $binary_remote_addr"]),
    ]
    of_server = []
    if connections:
        zones.append(line("limit_conn_zone $aip_address zone=aip_connections:10m", depth=1))
        of_server += [f"limit_conn aip_connections {connections}", "limit_conn_status 429"]
    if requests:
        zones.append(line(f"limit_req_zone $aip_address zone=aip_requests:10m rate={requests}r/s", depth=1))
        of_server += [f"limit_req zone=aip_requests burst={burst} nodelay", "limit_req_status 429"]
    return {"limit_zones": "".join(zones), "limits": lines(of_server, depth=2)}


def tls(files: tuple[Path, Path] | None) -> Places:
    """The certificate chain and its key, and what goes with them."""
    if files is None:
        return {"tls": "", "tls_protocol": "", "strict_transport": ""}
    certificate, key = files
    directives = (
        f'ssl_certificate "{path("tls certificate", certificate)}"',
        f'ssl_certificate_key "{path("tls key", key)}"',
        "ssl_protocols TLSv1.2 TLSv1.3",
        f"ssl_ciphers {_CIPHERS}",
        "ssl_prefer_server_ciphers off",
        "ssl_session_cache shared:aip_tls:10m",
        "ssl_session_timeout 1d",
        "ssl_session_tickets off",
    )
    return {
        "tls": lines(directives, depth=2),
        "tls_protocol": "$ssl_protocol",
        "strict_transport": line(f'add_header Strict-Transport-Security "max-age={_HSTS_SECONDS}" always', depth=1),
    }


def redirect(listen: str, port: int) -> str:
    """A server for plain HTTP that sends everybody to `port` of the same name; 308 keeps method and body."""
    where = "https://$host" + ("" if port == HTTPS_PORT else f":{port}")
    return _server([f"listen {listen} backlog=4096", f"return 308 {where}$request_uri"])


def admin(listen: str, allowed: list[str], nodes: list[str], error_log: str) -> str:
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


def real_ip(trusted: list[str]) -> Places:
    """Behind other proxies: the maps, what the server says of them, and the scheme that the client used."""
    if not trusted:
        return {"real_ip_maps": "", "real_ip": "", "scheme": "$scheme"}
    maps = _block("geo $realip_remote_addr $aip_is_proxy", ["default 0", *(f"{network} 1" for network in trusted)])
    maps += _block(
        'map "$aip_is_proxy $http_x_forwarded_proto" $aip_scheme',
        ["default $scheme", '"1 http" http', '"1 https" https'],
    )
    of_server = (
        *(f"set_real_ip_from {network}" for network in trusted),
        "real_ip_header X-Forwarded-For",
        "real_ip_recursive on",
    )
    return {"real_ip_maps": maps, "real_ip": lines(of_server, depth=2), "scheme": "$aip_scheme"}


def _block(head: str, directives: Sequence[str]) -> str:
    return f"    {head} {{\n{lines(directives, depth=2)}    }}\n"


def _server(directives: Sequence[str], places: str = "") -> str:
    return f"\n    server {{\n{lines(directives, depth=2)}{places}    }}\n"


def _servers(nodes: Sequence[str], how: str) -> str:
    return "\n".join(f"        server {node} {how};" for node in nodes)
