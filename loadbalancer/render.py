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

from loadbalancer import sections
from loadbalancer.values import RenderError, address, networks, number, path, port_of, user_name

__all__ = ["DEFAULT_BODY_LIMIT_BYTES", "DEFAULT_FILE_LIMIT_BYTES", "RenderError", "render"]

TEMPLATE = Path(__file__).with_name("nginx.conf.tmpl")
# The node's own limit for a REST body. Frames on a WebSocket are the node's business alone.
DEFAULT_BODY_LIMIT_BYTES = 2 * 1024 * 1024
# The node's own limit for a file of a session.
DEFAULT_FILE_LIMIT_BYTES = 100 * 1024 * 1024
DEFAULT_DRAIN_SECONDS = 3600
# So many addresses fill a worker at least, unless `connections_per_address` says otherwise.
ADDRESSES = 4
# Whoever runs on the machine of nginx.
LOOPBACK = ("127.0.0.0/8", "::1/128")

# `@{name}` in the template: nginx's own variables begin with a dollar, its named locations with a bare `@`.
_PLACE = re.compile(r"@\{([a-z_]+)\}")


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
    connections_per_address: int | None = None,
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
    `connections_per_address` (None: a quarter of what one worker bears) and `requests_per_second`, for each address,
    are no limits if 0; `request_burst` is ten seconds' worth unless given; addresses in the networks of `unlimited`
    have none. `drain_seconds`: how long workers of before a reload keep their sockets; 0 is until the last is closed.
    `tls` is the certificate chain and its key. `admin_from` are the networks that `admin_listen` answers.
    `trusted_proxies` are networks whose X-Forwarded-For and X-Forwarded-Proto are believed. Raises RenderError.
    """
    if not nodes:
        raise RenderError("nodes: at least one is needed")
    if len(set(nodes)) != len(nodes):
        raise RenderError("nodes: the same address is given twice")
    if redirect_listen is not None and tls is None:
        raise RenderError("redirect_listen: without tls there is nothing to be sent on to")
    servers = [address("node", node) for node in nodes]
    public = address("listen", listen, wildcard=True)
    base = path("run_dir", run_dir)
    error = f'"{path("error_log", error_log or run_dir / "nginx-error.log")}"'
    access = "off"
    if access_log != "off":
        access = f'"{path("access_log", access_log or run_dir / "nginx-access.log")}" aip_json buffer=64k flush=1s'
    if connections_per_address is None:
        # A proxied connection is two of the worker's.
        connections_per_address = max(1, worker_connections // 2 // ADDRESSES)
    burst = 10 * requests_per_second if request_burst is None else request_burst
    places: dict[str, object] = {
        "run_dir": base,
        "access_log": access,
        "error_log": error,
        "body_limit_bytes": number("body_limit_bytes", body_limit_bytes, least=1),
        "file_limit_bytes": number("file_limit_bytes", file_limit_bytes, least=1),
        "listen": public + (" ssl" if tls else "") + " backlog=4096",
        "redirect": "",
        "admin": "",
        **sections.processes(
            None if user is None else user_name("user", user),
            None if worker_processes is None else number("worker_processes", worker_processes, least=1),
            number("worker_connections", worker_connections, least=16),
            number("drain_seconds", drain_seconds, least=0),
        ),
        **sections.upstreams(servers),
        **sections.limits(
            number("connections_per_address", connections_per_address, least=0),
            number("requests_per_second", requests_per_second, least=0),
            number("request_burst", burst, least=0),
            networks("unlimited", unlimited),
        ),
        **sections.tls(tls),
        **sections.real_ip(networks("trusted_proxies", trusted_proxies)),
    }
    if redirect_listen:
        plain = address("redirect_listen", redirect_listen, wildcard=True)
        places["redirect"] = sections.redirect(plain, port_of(public))
    if admin_listen:
        operators = address("admin_listen", admin_listen, wildcard=True)
        places["admin"] = sections.admin(operators, networks("admin_from", admin_from), servers, error)
    return _PLACE.sub(lambda place: str(places[place[1]]), TEMPLATE.read_text(encoding="utf-8"))


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
    add("--connections-per-address", type=int, help="default: a quarter of what one worker bears; 0: no limit")
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
