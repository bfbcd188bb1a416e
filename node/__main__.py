"""`aip-node`: run one node in this process."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Generator

import uvicorn
from pydantic import ValidationError
from pydantic_settings import SettingsError

from node.app import Node
from node.settings import Settings, unknown_variables
from node.telemetry.logs import configure

__all__ = ["main"]

log = logging.getLogger(__name__)

LIFESPAN_SHARE_S = 3.0


class Server(uvicorn.Server):
    """uvicorn, told to leave in order: the node stops taking work first, and the exit code is 0."""

    def __init__(self, config: uvicorn.Config, node: Node) -> None:
        super().__init__(config)
        self._node = node

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """SIGTERM and SIGINT begin the stop; a second one ends it at once. Neither is raised again afterwards."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        log.info("stopping", extra={"signal": signal.Signals(number).name})
        self._node.begin_stop()
        self.handle_exit(number, None)


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
    config = uvicorn.Config(
        node.app,
        host=settings.bind_host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=settings.max_frame_bytes,
        ws_ping_interval=settings.ping_interval_s,
        ws_ping_timeout=settings.ping_timeout_s,
        # 25 KB a socket without, 64 to 130 KB with it.
        ws_per_message_deflate=False,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_timeout_s - LIFESPAN_SHARE_S)),
        backlog=4096,
    )
    Server(config, node).run()


if __name__ == "__main__":
    main()
