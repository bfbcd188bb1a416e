"""The command `aipctl`. Its exit codes: 0 as asked, 1 not so (one sentence on standard error), 2 a wrong command line.

The key is taken from `AIP_API_KEY` and nowhere else: what stands on a command line can be read by everybody. Every
command needs nothing but the packages of a node, so that it runs in a node's own container.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from aip_cluster.ctl.draining import DrainFailed, drain
from aip_cluster.ctl.rest import Unreachable, ask
from aip_cluster.ctl.smoke import SmokeFailed, resolve, smoke

__all__ = ["main"]

DEFAULT_PORT = "5000"


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or "@" in parts.netloc:
        raise argparse.ArgumentTypeError(f"{text!r} is not like http://host:port")
    return text.rstrip("/")


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not host:port")
    return host.strip("[]"), int(port)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aipctl", description="Ask something of running nodes.", epilog="The key is taken from AIP_API_KEY."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    here = f"http://127.0.0.1:{environ.get('AIP_PORT') or DEFAULT_PORT}"

    def node_command(name: str, text: str, run: Callable[..., int]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument("--url", type=_base_url, default=here, help="the node (default: %(default)s)")
        command.set_defaults(run=run)
        return command

    node_command("live", "whether the process is alive, whatever Redis does", _live)
    node_command("ready", "whether the node should get traffic", _ready)
    command = node_command("drain", "empty the node, and wait until it is", _drain)
    command.add_argument("--pause", type=_seconds, default=0.0, metavar="S", help="seconds before it (default: 0)")
    command.add_argument("--wait", type=_seconds, default=60.0, metavar="S", help="longest wait (default: %(default)g)")
    command = commands.add_parser(
        "smoke", help="register a device at one node, give it a task through another, read the result there"
    )
    command.add_argument(
        "--nodes", type=_host_port, required=True, action="append", metavar="HOST:PORT", help="every address it has"
    )
    command.add_argument("--two", action="store_true", help="fail where only one node is found")
    command.add_argument("--timeout", type=_seconds, default=60.0, metavar="S", help="default: %(default)g")
    command.set_defaults(run=_smoke)
    return parser


def _live(api_key: str | None, *, url: str) -> int:  # noqa: ARG001 - probes have no key
    return _probe(f"{url}/livez")


def _ready(api_key: str | None, *, url: str) -> int:  # noqa: ARG001
    return _probe(f"{url}/readyz")


def _probe(url: str) -> int:
    answer = ask("GET", url)
    return 0 if answer.status == 200 else _fail(str(answer))


def _drain(api_key: str | None, *, url: str, pause: float, wait: float) -> int:
    moved = drain(url, api_key, pause_s=pause, wait_s=wait)
    print(f"drained: {moved} sockets were moved")
    return 0


def _smoke(api_key: str | None, *, nodes: list[tuple[str, int]], two: bool, timeout: float) -> int:
    urls = [url for host, port in nodes for url in resolve(host, port)]
    if two and len(urls) < 2:
        return _fail(f"only one node is there: {urls[0]}")
    print(json.dumps(asyncio.run(smoke(urls, api_key, timeout_s=timeout))))
    return 0


def _fail(message: str) -> int:
    print(f"aipctl: {message}", file=sys.stderr)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. `argv` is the command line without the program's name."""
    options = vars(_parser(os.environ).parse_args(argv))
    run: Callable[..., int] = options.pop("run")
    try:
        return run(os.environ.get("AIP_API_KEY") or None, **options)
    except (DrainFailed, SmokeFailed, Unreachable) as exc:
        return _fail(str(exc))
