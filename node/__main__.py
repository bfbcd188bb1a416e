"""The command `aip-node`, and `python -m node`: run one node in this process."""

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.settings import Settings

__all__ = ["main"]

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> None:
    """Run a node until SIGTERM or SIGINT. Exit codes: 0 stopped in order, 2 wrong settings, 3 could not start."""
    if os.getpid() == 1:
        # The kernel drops a signal to a container's first process that the process does not handle: SIGTERM would be
        # lost until the server handles it, and the container be killed after its whole grace period. There is nothing
        # to put in order yet.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    _run(sys.argv[1:] if argv is None else argv)


def _run(argv: list[str]) -> None:
    # Imported here because it takes a second, in which SIGTERM must work already.
    from node.app import Node  # noqa: PLC0415
    from node.settings import unknown_variables  # noqa: PLC0415
    from node.telemetry.logs import configure  # noqa: PLC0415

    settings = _settings(argv)
    configure(settings.log_level, settings.log_format)
    for name in unknown_variables():
        log.warning("no setting reads this variable", extra={"variable": name})
    try:
        node = Node(settings)
    except ValueError as exc:
        print(f"aip-node: {exc}", file=sys.stderr)
        raise SystemExit(2) from None
    if settings.redis_url.startswith("embedded:"):
        log.warning("no Redis: all state is in this process and ends with it; set redis_url for a cluster")
    if settings.api_key is None and settings.bind_host not in {"127.0.0.1", "localhost", "::1"}:
        log.warning(
            "no api_key: anyone who reaches this port can run commands on every device; set api_key, or use --local"
        )
    node.server(signals=True).run()


def _settings(argv: list[str]) -> "Settings":
    from pydantic import ValidationError  # noqa: PLC0415
    from pydantic_settings import SettingsError  # noqa: PLC0415

    from node.settings import Settings  # noqa: PLC0415

    try:
        return Settings(_cli_parse_args=argv)
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_input=False, include_context=False):
            where = ".".join(str(part) for part in error["loc"]) or "settings"
            print(f"aip-node: {where}: {error['msg']}", file=sys.stderr)
    except SettingsError as exc:
        print(f"aip-node: {exc}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
