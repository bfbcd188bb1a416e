"""One shell command: its process group, its output, its end.

Promises: never more than `output_limit_bytes` per stream in memory, however much is written; whatever way the call
ends (exit, timeout, cancellation) its process group is dead when it returns, background jobs included. A process
that left the group (`setsid`) is beyond reach and stays.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aip_cluster.device.environment import command_environment

__all__ = ["CommandTimeout", "Completed", "run_command"]

# How long the pipes may stay open once the group is dead: only a process that left the group can hold them.
DRAIN_S = 1.0
KILL_S = 2.0


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended. `exit_code` is negative for the signal that killed it."""

    exit_code: int
    stdout: str
    stderr: str
    truncated: bool
    duration_s: float


class CommandTimeout(Exception):
    """The command ran too long and was killed. `output` is the end of what it had written."""

    def __init__(self, timeout_s: float, output: str) -> None:
        super().__init__(f"the command ran longer than {timeout_s:g} s and was killed")
        self.output = output


class _Output:
    """The first `limit` bytes of a stream; the rest is read and dropped, so that the writer never blocks."""

    def __init__(self, limit: int) -> None:
        self._kept = bytearray()
        self._limit = limit
        self.truncated = False

    def add(self, data: bytes) -> None:
        room = self._limit - len(self._kept)
        self._kept += data[:room]
        self.truncated = self.truncated or len(data) > room

    def text(self) -> str:
        return self._kept.decode("utf-8", errors="replace")


class _Process(asyncio.SubprocessProtocol):
    """Collects what the process writes and says when it has exited and when its pipes are closed."""

    def __init__(self, output_limit_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        self.streams = {1: _Output(output_limit_bytes), 2: _Output(output_limit_bytes)}
        self.exited: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.streams[fd].add(data)

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


async def run_command(
    command: str,
    *,
    cwd: Path,
    timeout_s: float,
    output_limit_bytes: int,
    environ: Mapping[str, str] | None = None,
) -> Completed:
    """Run `command` in a shell with `cwd` as its folder and nothing on its standard input.

    `environ` is all of its environment; without one it inherits what `command_environment` allows.
    Raises CommandTimeout, or OSError if it cannot be started. Cancelling kills the process group.
    """
    loop = asyncio.get_running_loop()
    variables = command_environment() if environ is None else dict(environ)
    started = time.monotonic()
    spawning = asyncio.ensure_future(
        loop.subprocess_shell(
            lambda: _Process(output_limit_bytes),
            command,
            stdin=asyncio.subprocess.DEVNULL,
            cwd=cwd,
            env=variables,
            start_new_session=True,
        )
    )
    try:
        # Shielded: cancelled half-way, asyncio would kill the shell alone and leave its children.
        transport, process = await asyncio.shield(spawning)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            transport, process = await spawning
            await _end(transport, process)
        raise
    timed_out = False
    try:
        await asyncio.wait([process.exited], timeout=timeout_s)
        timed_out = not process.exited.done()
    finally:
        await _end(transport, process)
    stdout, stderr = process.streams[1], process.streams[2]
    if timed_out:
        raise CommandTimeout(timeout_s, (stderr.text() or stdout.text())[-1000:])
    return Completed(
        exit_code=transport.get_returncode() or 0,
        stdout=stdout.text(),
        stderr=stderr.text(),
        truncated=stdout.truncated or stderr.truncated,
        duration_s=round(time.monotonic() - started, 3),
    )


async def _end(transport: asyncio.SubprocessTransport, process: _Process) -> None:
    """Kill what is left of the group, read what is left in the pipes, close."""
    # The group keeps its number while it has a member. With none left the number is free, but the system hands it
    # out again only after having gone through all the others.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(transport.get_pid(), signal.SIGKILL)
    try:
        await asyncio.wait([process.exited], timeout=KILL_S)
        await asyncio.wait([process.closed], timeout=DRAIN_S)
    finally:
        transport.close()
