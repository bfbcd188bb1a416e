"""uvicorn as a node uses it: the fast parts, bounds on every connection, and a stop in order.

A signal begins a drain (see `node.cluster.drain`). The listener stays open through it: sockets are refused, requests
served. After the last socket the node lingers until no kept-alive connection is left, each ended by its peer, by its
own idle time, or with the answer to its next request: were the node to close one, a POST that is just coming in over it
would be lost, and no balancer may send that again. An idle node has none, and stops at once. Only then is the listener
closed (see `node.serving.listener`). A second signal cuts the drain short, a third also what uvicorn waits for.
"""

import asyncio
import contextlib
import logging
import resource
import signal
import time
from collections.abc import Generator
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from node.serving.connection_bounds import REGISTRATION_BYTES, Config, ConnectionBounds
from node.serving.http_protocol import HttpProtocol
from node.serving.listener import close_listeners
from node.serving.websocket_protocol import WebSocketProtocol
from node.settings import Settings

__all__ = ["Lifecycle", "Server", "bearable"]

log = logging.getLogger(__name__)

LIFESPAN_SHARE_S = 3.0
LOOK_S = 0.05
LAST_REQUESTS_S = 1.0
# For what is no client's connection: Redis, models, logs, the interpreter.
SPARE_FILES = 256


class Lifecycle(Protocol):
    """What a server asks of the node that it serves, when it is told to stop."""

    def begin_drain(self) -> None:
        """Move devices to other nodes; the node does not come back from it."""

    async def drained(self) -> None:
        """Return once the drain is over."""

    def hurry(self) -> None:
        """Cut the drain short."""

    def begin_stop(self) -> None:
        """Take nothing new from now on."""


class Server(uvicorn.Server):
    """Serves one node. With `signals`, SIGTERM and SIGINT begin the stop, and the exit code is 0 afterwards."""

    def __init__(
        self,
        app: ASGIApp,
        node: Lifecycle,
        settings: Settings,
        bounds: ConnectionBounds,
        *,
        signals: bool,
    ) -> None:
        config = Config(
            app,
            bounds,
            http=HttpProtocol,
            ws=WebSocketProtocol,
            host=settings.bind_host,
            port=settings.port,
            loop="uvloop",
            # Until the client has registered.
            ws_max_size=min(REGISTRATION_BYTES, settings.max_frame_bytes),
            ws_ping_interval=settings.ping_interval_s,
            ws_ping_timeout=settings.ping_timeout_s,
            # 25 KB a socket without, 64 to 130 KB with it.
            ws_per_message_deflate=False,
            interface="asgi3",
            lifespan="on",
            access_log=False,
            # Where it matters who asked, behind what proxy, this is looked at: see `node.serving.proxies`.
            proxy_headers=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=max(1, int(settings.shutdown_timeout_s - LIFESPAN_SHARE_S)),
            backlog=4096,
        )
        super().__init__(config)
        self._node = node
        self._signals = (signal.SIGTERM, signal.SIGINT) if signals else ()
        self._linger_s = settings.drain_linger_s
        self._stopping: asyncio.Task[None] | None = None
        self._hurried = False

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """The node stops taking work first; uvicorn's own way raises the signal again, and the process dies of it."""
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in self._signals:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        log.info("stopping", extra={"signal": signal.Signals(number).name})
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._leave(number), name="leave")
        elif self._stopping.done():
            self.handle_exit(number, None)
        else:
            self._hurried = True
            self._node.hurry()

    async def _leave(self, number: int) -> None:
        try:
            self._node.begin_drain()
            await self._node.drained()
            await self._linger(self._linger_s)
            await close_listeners(self.servers)
            # Whoever got in at last has sent a request, or is about to.
            await self._linger(LAST_REQUESTS_S)
        finally:
            self._node.begin_stop()
            self.handle_exit(number, None)

    async def _linger(self, for_s: float) -> None:
        """Wait until no connection for requests is left."""
        # uvicorn keeps a set of its connections, and has no event for the last of them.
        until = time.monotonic() + for_s
        while self._keeps_connections() and not self._hurried and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)

    def _keeps_connections(self) -> bool:
        return any(isinstance(c, HttpProtocol) for c in self.server_state.connections)

    def connections(self) -> int:
        """TCP connections, of requests and of sockets."""
        return len(self.server_state.connections)

    def stop(self) -> None:
        """Begin the stop, as SIGTERM does."""
        self._node.begin_stop()
        self.should_exit = True


def bearable(connections: int) -> int:
    """So many connections, or as many as the process may have files; its soft limit is raised as far as it goes.

    A server that runs out of files can accept nobody, probes included, and has nobody to cut for them.
    """
    wanted = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    log.warning("fewer open files are allowed than connections are set", extra={"files": soft, "wanted": wanted})
    return max(1, soft - SPARE_FILES)
