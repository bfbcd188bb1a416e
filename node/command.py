"""The command `aip-node`: run one node in this process."""

import logging
import sys

from pydantic import ValidationError
from pydantic_settings import SettingsError

from node.app import Node
from node.server import Server
from node.settings import Settings, unknown_variables
from node.telemetry.logs import configure

__all__ = ["main"]

log = logging.getLogger(__name__)


def _settings(argv: list[str]) -> Settings:
    try:
        return Settings(_cli_parse_args=argv)
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_input=False, include_context=False):
            where = ".".join(str(part) for part in error["loc"]) or "settings"
            print(f"aip-node: {where}: {error['msg']}", file=sys.stderr)
    except SettingsError as exc:
        print(f"aip-node: {exc}", file=sys.stderr)
    raise SystemExit(2)


def main(argv: list[str] | None = None) -> None:
    """Run a node until SIGTERM or SIGINT. Exit codes: 0 stopped in order, 2 wrong settings, 3 could not start."""
    settings = _settings(sys.argv[1:] if argv is None else argv)
    configure(settings.log_level, settings.log_format)
    for name in unknown_variables():
        log.warning("no setting reads this variable", extra={"variable": name})
    try:
        node = Node(settings)
    except ValueError as exc:
        print(f"aip-node: {exc}", file=sys.stderr)
        raise SystemExit(2) from None
    if settings.redis_url.startswith("embedded:"):
        log.warning("no Redis: all state lives in this process and ends with it; for a cluster set redis_url")
    if settings.api_key is None and settings.bind_host not in {"127.0.0.1", "localhost", "::1"}:
        log.warning("no api_key: whoever reaches this port can run commands on every device; --local keeps it to here")
    Server(node, signals=True).run()
