"""How long a node that runs as a process takes to answer, while something is done to it.

The one that asks is a process too: what a test sends to the node holds the test's own loop.
"""

import asyncio
import http.client
import select
import sys
import time
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

__all__ = ["AnswerWatch"]

EVERY_S = 0.005
PATHS = ("/livez", "/api/health")


class AnswerWatch:
    """A context in which `/livez` and a request of REST are asked for in turn. `longest_s`: the longest an answer took,
    known once the block is left."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._asker: asyncio.subprocess.Process | None = None
        self.longest_s = 0.0

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._asker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, self._url, stdin=pipe, stdout=pipe
        )
        assert self._asker.stdout is not None
        assert await self._asker.stdout.readline() == b"asking\n"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._asker is not None
        said, _ = await self._asker.communicate(b"\n")
        if kind is None:
            self.longest_s = float(said)


def _ask(url: str) -> None:
    at = urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=30)
    longest_s, said = 0.0, False
    while not select.select([sys.stdin], [], [], EVERY_S)[0]:
        for path in PATHS:
            began = time.perf_counter()
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, (path, answer.status)
            # The first is slow: it opens the connection.
            longest_s = max(longest_s, time.perf_counter() - began) if said else 0.0
        if not said:
            said = True
            sys.stdout.write("asking\n")
            sys.stdout.flush()
    sys.stdout.write(str(longest_s))


if __name__ == "__main__":
    _ask(sys.argv[1])
