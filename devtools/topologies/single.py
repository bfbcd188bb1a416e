"""One Redis alone: on a port or a unix socket; with TLS, users and a memory bound where a test asks for them."""

from collections.abc import Sequence
from pathlib import Path

from devtools.topologies.base import Topology
from devtools.topologies.certificates import Certificates
from devtools.topologies.server import Server

__all__ = ["Single"]


class Single(Topology):
    """One server that keeps nothing on disk unless told to (`client.save()`)."""

    kind = "single"

    def __init__(
        self,
        directory: Path,
        *,
        socket_path: Path | None = None,
        certificates: Certificates | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        given = ["--save", "", "--appendonly", "no", "--dbfilename", "dump.rdb", "--maxmemory-policy", "noeviction"]
        # As `scripts/up` starts it.
        given += ["--hash-max-ziplist-value", "1024"]
        if certificates is not None:
            given += certificates.server_arguments
        self.certificates = certificates
        self._server = Server(
            "redis",
            directory,
            arguments=[*given, *arguments],
            socket_path=socket_path,
            tls=certificates is not None,
        )
        self.servers = [self._server]

    @property
    def url(self) -> str:
        if self._server.socket_path is not None:
            return f"unix://{self._server.socket_path}"
        return f"{'rediss' if self.certificates else 'redis'}://127.0.0.1:{self._server.port}/0"

    @property
    def healthy(self) -> bool:
        return self._server.answers

    def start(self) -> None:
        self._server.start()

    def primaries(self) -> list[Server]:
        return [self._server]

    def tolerate_silence(self, silence_ms: int) -> None:
        """There is nobody to take its place."""
