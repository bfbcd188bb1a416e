"""The tools of this device's MCP servers, and one way to call any of them.

A tool is named bare where that is unambiguous, or as `namespace.tool`. An agent sees the tools of the servers that
serve it, and no others: not in a list, not by name. Every call has a deadline: the tool's own where it has one (and
some seconds more, for it to say so itself), else that of its server. Errors are those of `aip_cluster.device.errors`.
"""

import asyncio
import difflib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aip_cluster.device.arguments import text_of, value_of
from aip_cluster.device.errors import InvalidParameters, ToolboxError, ToolFailed, ToolNotFound
from aip_cluster.device.origin import Origin, current_origin
from aip_cluster.device.servers.server import ServerTool, ToolServer
from aip_cluster.protocol import Command

__all__ = ["InvalidParameters", "ToolFailed", "ToolNotFound", "ToolValue", "Toolbox", "ToolboxError"]

logger = logging.getLogger(__name__)

META_TOOL = "list_tools"
TOOL_GRACE_S = 5.0
START_S = 5.0


@dataclass(frozen=True, slots=True)
class ToolValue:
    """What a tool returned, and the namespace it lives in."""

    value: Any
    namespace: str | None = None


class Toolbox:
    """The tools of several MCP servers. Use as an async context manager, once.

    Entering waits until every server was tried once, 5 s at most, and fails for none of them: one that cannot be
    reached is tried again in the background. `on_change` is called whenever tools come, go or change.
    """

    def __init__(self, servers: Sequence[ToolServer], *, on_change: Callable[[], None] = lambda: None) -> None:
        self._servers = {server.namespace: server for server in servers}
        self._on_change = on_change

    async def __aenter__(self) -> Self:
        for server in self._servers.values():
            server.start(self._on_change)
        settling = [asyncio.create_task(server.settled()) for server in self._servers.values()]
        try:
            if settling:
                await asyncio.wait(settling, timeout=START_S)
        except BaseException:
            await self._close()
            raise
        finally:
            for task in settling:
                task.cancel()
            await asyncio.gather(*settling, return_exceptions=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    def names(self, agent_name: str | None = None) -> list[str]:
        """The tools by the shortest name that calls them."""
        visible = self._visible(agent_name)
        counts = Counter(entry.tool.name for entry in visible)
        return [entry.tool.name if counts[entry.tool.name] == 1 else entry.qualified_name for entry in visible]

    def servers(self) -> list[dict[str, Any]]:
        """The servers, as a profile shows them."""
        described = []
        for server in self._servers.values():
            shown: dict[str, Any] = {
                "namespace": server.namespace,
                "connected": server.connected,
                "tools": [entry.tool.name for entry in server.tools],
            }
            if server.spec.agents:
                shown["agents"] = list(server.spec.agents)
            if server.error is not None and not server.connected:
                shown["error"] = server.error
            described.append(shown)
        return described

    def list_tools(
        self, *, tool_type: str | None = None, namespace: str | None = None, agent_name: str | None = None
    ) -> list[dict[str, Any]]:
        """The descriptions of the tools that an agent sees, of one type or namespace if given."""
        return [
            entry.describe()
            for entry in self._visible(agent_name)
            if tool_type in {None, entry.tool_type} and namespace in {None, entry.namespace}
        ]

    async def call(self, command: Command, origin: Origin | None = None) -> ToolValue:
        """Call the tool that `command` names, whichever tool type it gives. Raises ToolboxError.

        Cancelling cancels the tool, as far as the tool can be: the shell's processes are killed.
        """
        origin = origin or Origin()
        parameters = command.parameters or {}
        if command.tool_name == META_TOOL:
            return ToolValue(self._answer_meta(parameters, origin.agent_name))
        entry = self._resolve(command.tool_name, origin.agent_name)
        arguments = entry.arguments.check(parameters)
        own_s = entry.arguments.timeout_s(arguments)
        deadline_s = entry.server.spec.timeout_s if own_s is None else own_s + TOOL_GRACE_S
        token = current_origin.set(origin)
        try:
            result = await entry.server.call(entry.tool.name, arguments, deadline_s=deadline_s)
        finally:
            current_origin.reset(token)
        if result.is_error:
            text = str(text_of(result)).removeprefix(f"Error executing tool {entry.tool.name}").removeprefix(": ")
            raise ToolFailed(text or f"{entry.qualified_name} failed and gave no reason", namespace=entry.namespace)
        return ToolValue(value_of(entry.tool, result), entry.namespace)

    def _visible(self, agent_name: str | None) -> list[ServerTool]:
        return [entry for server in self._serving(agent_name) for entry in server.tools]

    def _serving(self, agent_name: str | None) -> list[ToolServer]:
        return [server for server in self._servers.values() if server.spec.serves(agent_name)]

    def _answer_meta(self, parameters: Mapping[str, Any], agent_name: str | None) -> list[dict[str, Any]]:
        tool_type, namespace = parameters.get("tool_type"), parameters.get("namespace")
        # A list and not a set: what came over the wire need not be hashable.
        if tool_type not in [None, "action", "data_collection"]:
            raise InvalidParameters("parameter 'tool_type': must be 'action' or 'data_collection'")
        namespaces = sorted(server.namespace for server in self._serving(agent_name))
        if namespace not in [None, *namespaces]:
            raise InvalidParameters(f"parameter 'namespace': must be one of {namespaces}")
        return self.list_tools(tool_type=tool_type, namespace=namespace, agent_name=agent_name)

    def _resolve(self, name: str, agent_name: str | None) -> ServerTool:
        visible = self._visible(agent_name)
        found = [entry for entry in visible if entry.tool.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise ToolNotFound(f"{name!r} is ambiguous: say {' or '.join(e.qualified_name for e in found)}")
        for entry in visible:
            if entry.qualified_name == name:
                return entry
        for server in self._serving(agent_name):
            bare = name.removeprefix(f"{server.namespace}.")
            if not server.connected and (bare in server.known or bare != name):
                raise server.absence(bare)
        raise ToolNotFound(self._nothing_like(name, agent_name))

    def _nothing_like(self, name: str, agent_name: str | None) -> str:
        names = self.names(agent_name)
        known = [*names, *(entry.qualified_name for entry in self._visible(agent_name))]
        close = list(dict.fromkeys(difflib.get_close_matches(name[:100], known, n=3, cutoff=0.5)))
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(names[:20])}"
        whose = f" for agent {agent_name[:100]!r}" if agent_name is not None else ""
        return f"there is no tool {name[:100]!r}{whose}; {hint}"
