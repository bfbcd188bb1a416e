"""One redis-server (or sentinel) process: started, asked, killed, frozen, never left behind.

It answers on a loopback port or a unix socket, and logs into its own directory. `start` may follow `kill`: on the same
address, with what it had written to disk. A test process that is killed itself leaves its servers running: they hold
nothing but a temporary directory.
"""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from devtools.service import STOP_S, Service
from devtools.topologies.ports import free_port

__all__ = ["Server", "TopologyError", "redis_program", "start_together"]

SEARCH_BEHIND_PATH = ("/usr/sbin", "/usr/local/sbin")
START_S = 20.0
LOG_TAIL_CHARS = 2_000


class TopologyError(RuntimeError):
    """A server cannot be found, does not start, or does not come to the state that was waited for."""


def redis_program() -> str | None:
    """Path of redis-server (or valkey-server), None where neither is installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *SEARCH_BEHIND_PATH])
    return shutil.which("redis-server", path=path) or shutil.which("valkey-server", path=path)


class Server(Service):
    """One process. `name` tells it apart within its topology; `arguments` go behind what every server gets."""

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        arguments: Sequence[str] = (),
        config: Sequence[str] = (),
        sentinel: bool = False,
        socket_path: Path | None = None,
        tls: bool = False,
    ) -> None:
        super().__init__(name, (), directory / "log")
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = 0 if socket_path else free_port()
        self.socket_path = socket_path
        self.config_path = directory / "server.conf" if config or sentinel else None
        self._arguments = list(arguments)
        self._config = list(config)
        self._sentinel = sentinel
        self._tls = tls
        self._client: redis.Redis | None = None

    # -- asking ------------------------------------------------------------------------------------------------------
    @property
    def client(self) -> redis.Redis:
        """A plain blocking client to look at the server from outside; closed with `dispose`."""
        if self._client is None:
            self._client = redis.Redis(
                host="127.0.0.1",
                port=self.port,
                unix_socket_path=str(self.socket_path) if self.socket_path else None,
                socket_timeout=5.0,
                retry=Retry(NoBackoff(), 1),
                protocol=2,
                ssl=self._tls,
                ssl_cert_reqs="none",
            )
        return self._client

    def ask(self, *command: str | int) -> Any:
        """The reply to one command, in redis-py's shape. Raises redis-py's errors."""
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call]

    @property
    def address(self) -> str:
        """`127.0.0.1:<port>`."""
        return f"127.0.0.1:{self.port}"

    @property
    def answers(self) -> bool:
        """Whether it answers a PING now; a wish for credentials is an answer."""
        try:
            return bool(self.client.ping())
        except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError):
            return True
        except redis.exceptions.RedisError:
            return False

    # -- life --------------------------------------------------------------------------------------------------------
    def launch(self) -> None:
        """Run it; returns at once."""
        self._command = self._written_command()
        super().launch()

    def start(self) -> None:
        """Run it; returns once it answers."""
        self.launch()
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        """Raises TopologyError, with its log, if it ends or stays silent."""
        deadline = time.monotonic() + START_S
        while not self.answers:
            if not self.alive or time.monotonic() > deadline:
                raise TopologyError(f"{self.name} does not answer:\n{self.log()[-LOG_TAIL_CHARS:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        super().kill()
        self._remove_socket()

    def stop(self, within_s: float = STOP_S) -> int:
        code = super().stop(within_s)
        self._remove_socket()
        return code

    def dispose(self) -> None:
        """End it, whatever state it is in. Safe to repeat."""
        if self._client is not None:
            self._client.close()
            self._client = None
        super().dispose()

    def _written_command(self) -> list[str]:
        """The command; the file that it names is written if it is not there."""
        program = redis_program()
        if program is None:
            raise TopologyError("redis-server is not installed")
        if self.config_path is not None and not self.config_path.exists():
            self.config_path.write_text("\n".join(self._config) + "\n", encoding="utf-8")
        command = [program, *([str(self.config_path)] if self.config_path else [])]
        port = "--tls-port" if self._tls else "--port"
        command += [port, str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--daemonize", "no"]
        if self._tls:
            command += ["--port", "0"]
        if self.socket_path is not None:
            command += ["--unixsocket", str(self.socket_path)]
        return [*command, *self._arguments, *(["--sentinel"] if self._sentinel else [])]

    def _remove_socket(self) -> None:
        if self.socket_path is not None:
            self.socket_path.unlink(missing_ok=True)


def start_together(servers: Sequence[Server]) -> None:
    """Run them beside each other; returns once all answer. Raises TopologyError."""
    for server in servers:
        server.launch()
    for server in servers:
        server.wait_until_it_answers()
