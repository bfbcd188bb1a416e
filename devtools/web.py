"""One HTTP request and one Redis PING by the standard library: `scripts/up` asks before anything is installed."""

import socket
import time
from contextlib import suppress

from aip_cluster.ctl.rest import Answer, Unreachable, ask
from devtools.outcome import Exit, ScriptError, tail
from devtools.processes import Child, describe_exit

__all__ = ["Answer", "Unreachable", "ask", "ping_redis", "wait_until_ready"]


def wait_until_ready(child: Child, url: str, *, within_s: float) -> None:
    """Returns once `url` is answered with 200. Raises ScriptError, with the end of its log, if the child ends first
    or takes longer."""
    deadline = time.monotonic() + within_s
    while True:
        with suppress(Unreachable):
            if ask("GET", url).status == 200:
                return
        code = child.handle.poll()
        if code is not None or time.monotonic() > deadline:
            how = describe_exit(code) if code is not None else f"was not ready after {within_s:g} s"
            raise ScriptError(Exit.NOT_READY, f"{child.process.name} {how}:\n{tail(child.log)}")
        time.sleep(0.05)


def ping_redis(host: str, port: int, timeout_s: float = 2.0) -> None:
    """Returns if a Redis is there, also one that asks for a password. Raises Unreachable."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(b"PING\r\n")
            reply = connection.recv(200)
    except OSError as exc:
        raise Unreachable(f"Redis at {host}:{port}: {exc}") from None
    if not reply.startswith((b"+PONG", b"-NOAUTH")):
        raise Unreachable(f"Redis at {host}:{port} says {reply.decode(errors='replace').strip()!r}")
