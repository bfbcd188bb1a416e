"""The MCP servers of this device, and one way to call any of their tools.

    ToolboxError
    ├── ToolNotFound         no tool of that name, or more than one
    ├── InvalidParameters    the arguments do not fit the tool's input schema
    └── ToolFailed           the tool was called and says that it failed

Servers are connected to on entry and their tools listed once. A tool is named bare where that is unambiguous, or as
`namespace.tool`. Error texts name tools and fields, so that a planner can mend its call. If a server goes away its
calls fail as `ToolFailed`; the others are not touched.
"""

import asyncio
import difflib
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import mcp_types
from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for
from mcp import Client, StdioServerParameters
from mcp.server import MCPServer
from referencing import Registry

from aip import Command

__all__ = ["InvalidParameters", "ToolFailed", "ToolNotFound", "ToolValue", "Toolbox", "ToolboxError"]

logger = logging.getLogger(__name__)

META_TOOL = "list_tools"
# UFO's servers hand this to every tool; it is a secret between them and tools that ask for it.
IGNORED_PARAMETER = "api_key"
ERROR_CHARS = 4000

ToolType = Literal["action", "data_collection"]


class ToolboxError(Exception):
    """A call that gave no result; `str(error)` is a sentence for whoever sent the command."""

    def __init__(self, message: str, *, namespace: str | None = None) -> None:
        super().__init__(message[:ERROR_CHARS])
        self.namespace = namespace


class ToolNotFound(ToolboxError):
    """No tool of that name, or more than one."""


class InvalidParameters(ToolboxError):
    """The parameters do not fit the tool's input schema."""


class ToolFailed(ToolboxError):
    """The tool ran and failed, or its server did not answer."""


@dataclass(frozen=True, slots=True)
class ToolValue:
    """What a tool returned, and the namespace it lives in."""

    value: Any
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    namespace: str
    tool: mcp_types.Tool
    client: Client
    validator: Any

    @property
    def qualified_name(self) -> str:
        return f"{self.namespace}.{self.tool.name}"

    @property
    def tool_type(self) -> ToolType:
        annotations = self.tool.annotations
        return "data_collection" if annotations is not None and annotations.read_only_hint else "action"

    def describe(self) -> dict[str, Any]:
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


class Toolbox:
    """The tools of several MCP servers. Use as an async context manager, once.

    `servers` maps each namespace to a server in this process, a command that starts one, or the address of one.
    """

    def __init__(self, servers: Mapping[str, MCPServer[Any] | StdioServerParameters | str]) -> None:
        self._servers = dict(servers)
        self._entries: dict[str, _Entry] = {}
        self._leaving = asyncio.Event()
        self._holder: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect and list. Raises what `mcp.Client` raises for a server that cannot be reached."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._holder = asyncio.create_task(self._hold(ready), name="toolbox")
        try:
            await ready
        except BaseException:
            self._holder.cancel()
            await asyncio.gather(self._holder, return_exceptions=True)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leaving.set()
        if self._holder is not None:
            await self._holder

    async def _hold(self, ready: asyncio.Future[None]) -> None:
        """Keep the connections, all their life in one task: MCP's must be left in the task that entered them, and
        would wrap whatever was raised in that task meanwhile in exception groups."""
        try:
            async with AsyncExitStack() as stack:
                for namespace, server in self._servers.items():
                    client = await stack.enter_async_context(Client(server))
                    for tool in await _list_tools(client):
                        validator = validator_for(tool.input_schema)(tool.input_schema, registry=Registry())
                        entry = _Entry(namespace, tool, client, validator)
                        self._entries[entry.qualified_name] = entry
                ready.set_result(None)
                await self._leaving.wait()
        except Exception as exc:
            if ready.done():
                raise
            ready.set_exception(exc)
        finally:
            self._entries.clear()

    def names(self) -> list[str]:
        """The tools by the shortest name that calls them."""
        counts: dict[str, int] = {}
        for entry in self._entries.values():
            counts[entry.tool.name] = counts.get(entry.tool.name, 0) + 1
        return [
            entry.tool.name if counts[entry.tool.name] == 1 else entry.qualified_name
            for entry in self._entries.values()
        ]

    def servers(self) -> list[dict[str, Any]]:
        """The servers, as a profile shows them."""
        return [
            {"namespace": namespace, "tools": [e.tool.name for e in self._entries.values() if e.namespace == namespace]}
            for namespace in self._servers
        ]

    def list_tools(self, *, tool_type: str | None = None, namespace: str | None = None) -> list[dict[str, Any]]:
        """The descriptions of the tools, of one type or namespace if given."""
        return [
            entry.describe()
            for entry in self._entries.values()
            if tool_type in {None, entry.tool_type} and namespace in {None, entry.namespace}
        ]

    async def call(self, command: Command) -> ToolValue:
        """Call the tool that `command` names, whichever tool type it gives. Raises ToolboxError.

        Cancelling cancels the tool, as far as the tool can be: the shell's processes are killed.
        """
        parameters = command.parameters or {}
        if command.tool_name == META_TOOL:
            return ToolValue(self._answer_meta(parameters))
        entry = self._resolve(command.tool_name)
        arguments = _check(entry, parameters)
        try:
            result = await entry.client.call_tool(entry.tool.name, arguments)
        except Exception as exc:
            logger.warning("tool %s: its server did not answer (%s)", entry.qualified_name, type(exc).__name__)
            raise ToolFailed(f"{entry.qualified_name}: {exc or type(exc).__name__}", namespace=entry.namespace) from exc
        if result.is_error:
            text = str(_text(result)).removeprefix(f"Error executing tool {entry.tool.name}").removeprefix(": ")
            raise ToolFailed(text or f"{entry.qualified_name} failed and gave no reason", namespace=entry.namespace)
        return ToolValue(_value(entry, result), entry.namespace)

    def _answer_meta(self, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        tool_type, namespace = parameters.get("tool_type"), parameters.get("namespace")
        # A list and not a set: what came over the wire need not be hashable.
        if tool_type not in [None, "action", "data_collection"]:
            raise InvalidParameters("parameter 'tool_type': must be 'action' or 'data_collection'")
        if namespace not in [None, *self._servers]:
            raise InvalidParameters(f"parameter 'namespace': must be one of {sorted(self._servers)}")
        return self.list_tools(tool_type=tool_type, namespace=namespace)

    def _resolve(self, name: str) -> _Entry:
        found = [entry for entry in self._entries.values() if entry.tool.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise ToolNotFound(f"{name!r} is ambiguous: say {' or '.join(e.qualified_name for e in found)}")
        if name in self._entries:
            return self._entries[name]
        known = [*self.names(), *self._entries]
        close = list(dict.fromkeys(difflib.get_close_matches(name[:100], known, n=3, cutoff=0.5)))
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(self.names()[:20])}"
        raise ToolNotFound(f"there is no tool {name[:100]!r}; {hint}")


async def _list_tools(client: Client) -> list[mcp_types.Tool]:
    tools: list[mcp_types.Tool] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools


def _check(entry: _Entry, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments to call with. Raises InvalidParameters, naming the field."""
    properties = entry.tool.input_schema.get("properties", {})
    arguments = dict(parameters)
    if IGNORED_PARAMETER not in properties:
        arguments.pop(IGNORED_PARAMETER, None)
    for name, schema in properties.items():
        # Absent and null are the same to AIP, not to JSON Schema.
        if name in arguments and arguments[name] is None and not entry.validator.evolve(schema=schema).is_valid(None):
            del arguments[name]
    error = best_match(entry.validator.iter_errors(arguments))
    if error is None:
        return arguments
    where = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        text = f"parameter {'.'.join(filter(None, [where, missing[0]]))!r} is missing"
    elif error.validator == "additionalProperties" and not where:
        unknown = [name for name in arguments if name not in properties]
        text = f"parameter {unknown[0][:100]!r} is not known; there are: {', '.join(properties) or 'none'}"
    else:
        text = f"parameter {where!r}: {error.message[:300]}"
    raise InvalidParameters(f"{entry.tool.name}: {text}", namespace=entry.namespace)


def _value(entry: _Entry, result: mcp_types.CallToolResult) -> Any:
    """The structured content, out of the `{"result": …}` that MCP puts around what is not an object; else the text."""
    content = result.structured_content
    if content is None:
        return _text(result)
    wrapped = set((entry.tool.output_schema or {}).get("properties", {})) == {"result"}
    if wrapped and isinstance(content, dict) and set(content) == {"result"}:
        return content["result"]
    return content


def _text(result: mcp_types.CallToolResult) -> Any:
    blocks = result.content
    if all(isinstance(block, mcp_types.TextContent) for block in blocks):
        return "\n".join(block.text for block in blocks if isinstance(block, mcp_types.TextContent))
    return [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in blocks]
