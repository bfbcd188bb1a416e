"""The internal port: metrics and probes for the cluster's inside, apart from what the world may reach.

A second uvicorn in the node's own event loop, for a handful of connections. It is opened before the node takes work and
closed when the node has stopped, so that a drain can be watched to its end. That the port is taken fails the start.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

__all__ = ["InternalPort"]

log = logging.getLogger(__name__)

MAX_REQUESTS = 32
KEEP_ALIVE_S = 75
BACKLOG = 64
START_S = 5.0
LOOK_S = 0.01


class InternalPort:
    """Serves `app` on `host` and `port` from `start` to `close`."""

    def __init__(self, app: ASGIApp, *, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._server = _Server(
            uvicorn.Config(
                app,
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                limit_concurrency=MAX_REQUESTS,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=1,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises OSError if the port cannot be had."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, self._port), family=family, backlog=BACKLOG)
        self._serving = asyncio.create_task(self._server.serve([listener]), name="internal-port")
        # uvicorn sets a flag and has no event for it.
        async with asyncio.timeout(START_S):
            while not self._server.started and not self._serving.done():  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
        if self._serving.done():
            await self._serving
        log.info("internal port open", extra={"host": self._host, "port": self._port})

    async def close(self) -> None:
        """Answer what is being answered, for a second at most, and close. Safe to repeat."""
        if self._serving is not None:
            self._server.should_exit = True
            await asyncio.gather(self._serving, return_exceptions=True)
            self._serving = None


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are for the node's own server."""
        yield
