"""An MCP server for tests, as a process of its own: it can crash, hang, and write what is not MCP."""

import os
import sys
import time

from mcp.server import MCPServer

# The SDK keeps the real standard output to itself; a library of a server's, written in C, would not ask.
STDOUT = os.dup(1)

server: MCPServer[None] = MCPServer("script")


@server.tool()
def pid() -> int:
    return os.getpid()


@server.tool()
def variable(name: str) -> str | None:
    return os.environ.get(name)


@server.tool()
def shout(text: str) -> str:
    return text.upper()


@server.tool()
def crash(last_words: str = "") -> str:
    print(last_words, file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
async def hang() -> str:
    # Not awaited: the whole server answers nobody any more.
    time.sleep(600)  # noqa: ASYNC251
    return "never"


@server.tool()
def slow(timeout: float = 600.0) -> str:
    time.sleep(timeout)
    return "slept"


@server.tool()
def flood(lines: int, length: int, ends: bool = True) -> str:
    line = b"x" * length + (b"\n" if ends else b"")
    for _ in range(lines):
        os.write(STDOUT, line)
    os.write(STDOUT, b"\n")
    return "flooded"


if __name__ == "__main__":
    server.run("stdio")
