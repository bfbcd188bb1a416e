"""One MCP server as the device sees it: connected or not, its tools while it is, and the way back.

A server that cannot be reached, ends or stops answering is tried again for ever, with backoff and jitter, and its
tools are there only while it is; the calls that it was working on fail at once and say so. Nothing of this reaches
the other servers: each has a task of its own.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import mcp_types
from mcp import MCPError

from aip_cluster.device.arguments import Arguments
from aip_cluster.device.errors import ToolFailed, leaf
from aip_cluster.device.servers.opening import Opened, Opener
from aip_cluster.device.servers.spec import ServerSpec, ToolType
from aip_cluster.protocol.backoff import Backoff

__all__ = ["ServerTool", "ToolServer"]

logger = logging.getLogger(__name__)

CONNECT_S = 30.0
# A server that is connected and silent for a minute is asked for its tools, and must answer in time.
CHECK_EVERY_S = 60.0
CHECK_S = 10.0
CANCEL_S = 3.0
CLOSE_S = 3.0
MAX_TOOLS = 1000


class _Lost(Exception):
    """The server has gone away; the text says how that was noticed."""


@dataclass(frozen=True, slots=True)
class ServerTool:
    """A tool of a server that is connected."""

    server: "ToolServer"
    tool: mcp_types.Tool
    arguments: Arguments

    @property
    def namespace(self) -> str:
        """The namespace of its server."""
        return self.server.namespace

    @property
    def qualified_name(self) -> str:
        """The name that is never ambiguous."""
        return f"{self.namespace}.{self.tool.name}"

    @property
    def tool_type(self) -> ToolType:
        """As configured for the server, else after what the tool says about itself."""
        if self.server.spec.tool_type is not None:
            return self.server.spec.tool_type
        annotations = self.tool.annotations
        return "data_collection" if annotations is not None and annotations.read_only_hint else "action"

    def describe(self) -> dict[str, Any]:
        """The description in AIP's form."""
        tool, annotations = self.tool, self.tool.annotations
        return {
            "tool_key": f"{self.tool_type}::{tool.name}",
            "tool_name": tool.name,
            "title": tool.title,
            "namespace": self.namespace,
            "tool_type": self.tool_type,
            "description": tool.description,
            "input_schema": tool.input_schema,
            "output_schema": tool.output_schema,
            "meta": tool.meta,
            "annotations": None if annotations is None else annotations.model_dump(by_alias=True, exclude_none=True),
        }


class ToolServer:
    """A server, by its `spec` and the way to open a connection to it. `start`, then `close`."""

    def __init__(self, spec: ServerSpec, opener: Opener, *, backoff: Backoff | None = None) -> None:
        self.spec = spec
        self.namespace = spec.namespace
        self.tools: tuple[ServerTool, ...] = ()
        self.connected = False
        self.error: str | None = None
        # The tools of the last connection: a call for one of them deserves better than "there is no such tool".
        self.known: frozenset[str] = frozenset()
        self._opener = opener
        self._backoff = backoff if backoff is not None else Backoff(cap_s=30.0)
        self._opened: Opened | None = None
        self._on_change: Callable[[], None] = lambda: None
        self._poked = asyncio.Event()
        self._disconnect = asyncio.Event()
        self._settled = asyncio.Event()
        self._holder: asyncio.Task[None] | None = None

    def start(self, on_change: Callable[[], None]) -> None:
        """Connect and stay connected. `on_change` is called whenever its tools come, go or change."""
        self._on_change = on_change
        self._holder = asyncio.create_task(self._hold(), name=f"server {self.namespace}")

    async def settled(self) -> None:
        """Wait until the first attempt to connect has succeeded or failed."""
        await self._settled.wait()

    async def close(self) -> None:
        """Disconnect; a process is ended. Takes 3 s at most."""
        self._disconnect.set()
        self._poked.set()
        if self._holder is None:
            return
        if not self.connected:
            self._holder.cancel()
        done, _ = await asyncio.wait([self._holder], timeout=CLOSE_S)
        if not done:
            logger.warning("%s: left without goodbye", self.namespace)
            self._holder.cancel()
        await asyncio.gather(self._holder, return_exceptions=True)

    async def call(self, name: str, arguments: dict[str, Any], *, deadline_s: float) -> mcp_types.CallToolResult:
        """Call a tool. Raises ToolFailed if there is no result in time. Cancelling cancels the tool where it can be."""
        opened = self._opened
        qualified = f"{self.namespace}.{name}"
        if opened is None:
            raise self.absence(name)
        if (reason := opened.reason()) is not None:
            # It has just ended, and whoever looks after it has not had its turn yet.
            self.error = reason
            raise self.absence(name)
        # A task of its own: a tool that does not heed being cancelled (a thread, say) must not hold its caller.
        calling = asyncio.create_task(opened.client.call_tool(name, arguments), name=f"tool {qualified}")
        try:
            done, _ = await asyncio.wait([calling], timeout=deadline_s)
            if not done:
                self.suspect()
                raise ToolFailed(f"{qualified}: no answer within {deadline_s:g} s", namespace=self.namespace)
            return calling.result()
        except ToolFailed:
            raise
        except Exception as exc:
            self.suspect()
            raise self._failure(qualified, opened, leaf(exc)) from exc
        finally:
            if not calling.done():
                calling.cancel()
                _, pending = await asyncio.wait([calling], timeout=CANCEL_S)
                if pending:
                    logger.warning("tool %s goes on though it was cancelled", qualified)
            calling.add_done_callback(_retrieve)

    def absence(self, name: str) -> ToolFailed:
        """Why a tool that was there is not."""
        why = f" ({self.error})" if self.error else ""
        text = f"{self.namespace}.{name}: its server is away{why}; the device keeps trying to reach it"
        return ToolFailed(text, namespace=self.namespace)

    def suspect(self) -> None:
        """Look soon whether the server still answers."""
        self._poked.set()

    def _failure(self, qualified: str, opened: Opened, exc: BaseException) -> ToolFailed:
        logger.warning("tool %s: its server gave no result (%s)", qualified, type(exc).__name__)
        if isinstance(exc, MCPError) and exc.code == mcp_types.CONNECTION_CLOSED:
            why = opened.reason()
            text = f"its server went away while the tool ran{f': {why}' if why else ''}"
        else:
            text = str(exc) or type(exc).__name__
        return ToolFailed(f"{qualified}: {text}", namespace=self.namespace)

    async def _hold(self) -> None:
        """Keep the connection, all its life in one task: MCP's must be left in the task that entered them."""
        while not self._disconnect.is_set():
            try:
                await self._connect_once()
            except Exception as exc:
                self._down(_told(leaf(exc)))
            finally:
                self._opened = None
            self._settled.set()
            if self._disconnect.is_set():
                break
            delay_s = self._backoff.next_s()
            logger.info("%s: trying again in %.1f s", self.namespace, delay_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._disconnect.wait()
        self._clear()

    async def _connect_once(self) -> None:
        """One connection from opening to its end. Raises what ended it, unless it was left."""
        self._poked.clear()
        timeout = asyncio.timeout(CONNECT_S)
        try:
            async with timeout, self._opener(self._poked.set) as opened:
                await self._take(opened)
                timeout.reschedule(None)
                await self._watch(opened)
        except TimeoutError:
            if timeout.expired():
                raise _Lost(f"no connection within {CONNECT_S:g} s") from None
            raise

    async def _watch(self, opened: Opened) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_EVERY_S):
                    await self._poked.wait()
            self._poked.clear()
            if self._disconnect.is_set():
                return
            if (reason := opened.reason()) is not None:
                raise _Lost(reason)
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._take(opened)
            except TimeoutError:
                raise _Lost(f"it has not answered for {CHECK_S:g} s") from None

    async def _take(self, opened: Opened) -> None:
        """List the tools and make them callable."""
        tools = [tool async for tool in _listed(opened)]
        described = [tool.model_dump() for tool in tools]
        unchanged = self.connected and described == [entry.tool.model_dump() for entry in self.tools]
        self._opened = opened
        if unchanged:
            return
        self.tools = tuple(self._entries(tools))
        self.known = frozenset(entry.tool.name for entry in self.tools)
        if not self.connected:
            self._backoff.reset()
            logger.info("%s: connected, %d tools", self.namespace, len(self.tools))
        self.connected, self.error = True, None
        self._settled.set()
        self._on_change()

    def _entries(self, tools: Iterable[mcp_types.Tool]) -> Iterable[ServerTool]:
        for tool in tools:
            try:
                yield ServerTool(self, tool, Arguments(tool, self.namespace))
            except Exception as exc:
                logger.warning("%s: tool %r left out: its schema is none (%s)", self.namespace, tool.name, exc)

    def _down(self, error: str) -> None:
        logger.warning("%s: %s: %s", self.namespace, "lost" if self.connected else "not reachable", error)
        self.error = error
        self._clear()

    def _clear(self) -> None:
        was_connected, self.connected, self.tools = self.connected, False, ()
        if was_connected and not self._disconnect.is_set():
            self._on_change()


async def _listed(opened: Opened) -> AsyncIterator[mcp_types.Tool]:
    cursor: str | None = None
    count = 0
    while True:
        page = await opened.client.list_tools(cursor=cursor)
        for tool in page.tools:
            count += 1
            if count > MAX_TOOLS:
                raise _Lost(f"it lists more than {MAX_TOOLS} tools")
            yield tool
        cursor = page.next_cursor
        if cursor is None:
            return


def _told(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__)[:500]


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take note of how an abandoned call ended, so that asyncio does not."""
    if not task.cancelled():
        task.exception()
