"""An MCP server that is a process: its pipes, its process group, its end.

Promises: whatever the process writes, memory stays bounded (a line of over 16 MiB, or 8 MiB of lines that are not
MCP, end it); `ended` is set as soon as it can no longer answer, with a reason; whatever way the transport is left,
the process group is dead when it returns, and that takes 3 s at most. A process that left the group stays.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import anyio
import mcp_types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage

__all__ = ["StdioTransport"]

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_GARBAGE_BYTES = 8 * 1024 * 1024
SHOWN_CHARS = 300
KEPT_LINES = 5
# How long it may take to leave: after its input is closed, after SIGTERM, after SIGKILL.
LEAVE_S, TERMINATE_S, KILL_S = 1.0, 0.5, 1.0
LAST_WORDS_S = 0.5

_Incoming = SessionMessage | Exception


class _Pipes(asyncio.subprocess.SubprocessStreamProtocol):
    """The pipes of a process, and when it exits: `Process.wait` waits for the pipes too, and those a grandchild may
    hold."""

    def __init__(self) -> None:
        super().__init__(MAX_LINE_BYTES, asyncio.get_running_loop())
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


class StdioTransport:
    """A transport for `mcp.Client`: use as an async context manager, once. Raises OSError if it cannot be started.

    `on_end` is called once, when the process has ended or was given up; `reason` then says why.
    """

    def __init__(
        self,
        command: str,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        name: str = "",
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._command = (command, *args)
        self._env = {**get_default_environment(), **(env or {})}
        self._cwd = cwd
        self._name = name or command
        self._on_end = on_end
        self._tasks: list[asyncio.Task[None]] = []
        self._stderr: deque[str] = deque(maxlen=KEPT_LINES)
        self._incoming, self._incoming_end = anyio.create_memory_object_stream[_Incoming](0)
        self._outgoing, self._outgoing_end = anyio.create_memory_object_stream[SessionMessage](0)
        self.reason: str | None = None

    async def __aenter__(
        self,
    ) -> tuple[MemoryObjectReceiveStream[_Incoming], MemoryObjectSendStream[SessionMessage]]:
        spawning = asyncio.ensure_future(self._spawn())
        try:
            # Shielded: cancelled half-way, nobody would hold the process that was just started.
            await asyncio.shield(spawning)
        except BaseException:
            with contextlib.suppress(Exception):
                await spawning
                await self._end()
            self._close_streams()
            raise
        return self._incoming_end, self._outgoing

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._end()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._close_streams()

    async def _spawn(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, self._pipes = await loop.subprocess_exec(
            _Pipes, *self._command, env=self._env, cwd=self._cwd, start_new_session=True
        )
        process = asyncio.subprocess.Process(self._transport, self._pipes, loop)
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise RuntimeError("a process was started without its pipes")
        self._stdin = process.stdin
        self._tasks = [
            asyncio.create_task(self._read(process.stdout), name=f"{self._name} stdout"),
            asyncio.create_task(self._listen(process.stderr), name=f"{self._name} stderr"),
            asyncio.create_task(self._write(process.stdin), name=f"{self._name} stdin"),
        ]

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        """Lines to messages, until there are no more or one is beyond all bounds."""
        garbage = 0
        reason = None
        try:
            while line := await stdout.readline():
                try:
                    message = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    if garbage == 0:
                        logger.warning("%s: writes what is not MCP to its standard output; ignored", self._name)
                    garbage += len(line)
                    if garbage > MAX_GARBAGE_BYTES:
                        reason = f"it wrote more than {MAX_GARBAGE_BYTES} bytes that are not MCP to its standard output"
                        break
                    continue
                await self._incoming.send(SessionMessage(message))
        except ValueError:
            reason = f"it wrote a line of more than {MAX_LINE_BYTES} bytes to its standard output"
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            reason = "it was left"
        # Its exit code and its last words come by other ways, a moment later.
        await self._exits(LAST_WORDS_S)
        self._report(reason)

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        """Keep the last lines: they often say why a server died. In chunks, so that no line can be too long."""
        rest = ""
        while chunk := await stderr.read(64 * 1024):
            *lines, rest = (rest + chunk.decode("utf-8", errors="replace")).split("\n")
            rest = rest[-SHOWN_CHARS:]
            for line in lines[-KEPT_LINES:]:
                self._stderr.append(line.strip()[:SHOWN_CHARS])
                logger.debug("%s: %s", self._name, self._stderr[-1])

    async def _write(self, stdin: asyncio.StreamWriter) -> None:
        try:
            async for message in self._outgoing_end:
                line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                stdin.write(line.encode("utf-8", errors="replace") + b"\n")
                await stdin.drain()
        except (OSError, ValueError, anyio.ClosedResourceError) as exc:
            self._report(f"it could not be written to ({type(exc).__name__})")

    def _report(self, reason: str | None) -> None:
        """The process can answer no more: wake whoever waits for it."""
        if self.reason is not None:
            return
        self._kill()
        code = self._transport.get_returncode()
        ended = "it ended" if code is None else f"it ended with exit code {code}"
        last = next((line for line in reversed(self._stderr) if line), None)
        self.reason = (reason or ended) + (f"; its last words: {last!r}" if last else "")
        # The session sees the end of the stream, and fails what it waits for.
        self._incoming.close()
        self._on_end()

    async def _end(self) -> None:
        """Ask the process to end, then make it."""
        self.reason = self.reason or "it was left"
        try:
            self._stdin.close()
            if not await self._exits(LEAVE_S):
                self._signal(signal.SIGTERM)
                await self._exits(TERMINATE_S)
        finally:
            self._kill()
        try:
            await self._exits(KILL_S)
        finally:
            self._transport.close()

    async def _exits(self, wait_s: float) -> bool:
        """Whether the process exits in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._pipes.exited.wait()
        return self._pipes.exited.is_set()

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        """To the whole group, also once its first process has exited: its children are to go with it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._transport.get_pid(), number)

    def _close_streams(self) -> None:
        for stream in (self._incoming, self._incoming_end, self._outgoing, self._outgoing_end):
            stream.close()
