"""The tools of the devices on this node, looked up when a planner wants them, or before commands are sent.

A device may have listed them at registration (`metadata.tools`); otherwise it is asked with `list_tools`, once for each
agent and tool type, as far as its platform has both: UFO's device answers only for types that its agent has servers
for, and to others not at all. What comes within the time is taken. UFO's client never answers a command that it cannot
resolve: what is unknown is refused here, and the refusal names the tools that there are.

What a device has is kept for the life of its socket, identical lists once: of the lists used last, 256.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from aip_cluster.protocol import (
    ClientMessage,
    Command,
    ResultStatus,
    ServerMessage,
    ServerMessageType,
    TaskStatus,
    new_id,
)
from aip_cluster.protocol.features import NO_ECHO, QUALIFIED_TOOLS
from node.connections.connection import Connection
from node.sessions.planners import Call, Tool
from node.sessions.platforms import TOOL_TYPES, AgentNames
from node.sessions.secrets import ToolSecrets
from node.sessions.session import SessionMachine

__all__ = ["ToolCatalog"]

log = logging.getLogger(__name__)

KEPT = 256
TOOLS_BOUND = 256
SCHEMA_BYTES = 65_536
# Of a refusal.
NAMED_TOOLS = 50
LIST_TOOLS = "list_tools"
# After the first answer the other may still be on its way, or will never come.
SECOND_ANSWER_S = 2.0
# In place of a list: the device did not say which tools it has.
UNSAID = b""

# An agent of a device, and a type of its tools.
_Kind = tuple[AgentNames, str]


@dataclass(slots=True)
class _Device:
    """What is known of the tools behind one socket: digests of lists. One session asks at a time, the others wait."""

    lists: dict[_Kind, bytes] = field(default_factory=dict)
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class ToolCatalog:
    """Looks up tools. One per node."""

    def __init__(self, secrets: ToolSecrets, *, timeout_s: float) -> None:
        self._secrets = secrets
        self._timeout_s = timeout_s
        self._devices: WeakKeyDictionary[Connection, _Device] = WeakKeyDictionary()
        self._lists: OrderedDict[bytes, list[Tool]] = OrderedDict()
        # Questions that are not answered yet, by their response id, with the connection that may answer. Read only.
        self.asked: dict[str, tuple[Connection, asyncio.Future[ClientMessage]]] = {}

    def answer(self, connection: Connection, message: ClientMessage) -> bool:
        """Take the answer to a question of ours. False if it is none."""
        asked = self.asked.get(message.prev_response_id or "")
        if asked is None or asked[0] is not connection or asked[1].done():
            return False
        asked[1].set_result(message)
        return True

    async def tools(self, session: SessionMachine, connection: Connection, agents: Sequence[AgentNames]) -> list[Tool]:
        """The tools that these agents of the session's device have; empty if the device does not say.

        Cancelling is safe.
        """
        registered = self._registered(connection)
        if registered:
            return registered
        kinds = [(names, kind) for names in agents for kind in session.platform.tool_types(names.agent_name)]
        listed = await self._listed(session, connection, kinds, again=UNSAID)
        return [tool for tools in listed.values() for tool in tools or ()]

    async def refusal(
        self, session: SessionMachine, connection: Connection, calls: Sequence[Call], names: AgentNames
    ) -> str | None:
        """Why the device cannot make these calls: it has not such a tool. None if it can, or does not say.

        A device that lists its tools when it registers, or `commands_without_echo`, answers every command: it is not
        asked. Cancelling is safe.
        """
        wanted = [(c.command.tool_type, c.command.tool_name) for c in calls if c.command.tool_name != LIST_TOOLS]
        if not wanted or connection.payload_format or NO_ECHO in connection.features or names.agent_name is None:
            return None
        if self._registered(connection):
            return None
        types = dict.fromkeys([*(kind for kind, _ in wanted), *session.platform.tool_types(names.agent_name)])
        kinds = [(names, kind) for kind in types]
        known = self._known(connection, kinds)
        listed = await self._listed(session, connection, kinds)
        missing = _missing(wanted, listed, names)
        if missing is not None and known:
            # It may have got the tool since it was asked.
            listed = await self._listed(session, connection, kinds, again=None)
            missing = _missing(wanted, listed, names)
        return missing

    def _known(self, connection: Connection, kinds: Iterable[_Kind]) -> bool:
        device = self._devices.get(connection)
        return device is not None and all(kind in device.lists for kind in kinds)

    async def _listed(
        self,
        session: SessionMachine,
        connection: Connection,
        kinds: Sequence[_Kind],
        *,
        again: bytes | None = b"nothing",
    ) -> dict[_Kind, list[Tool] | None]:
        """The tools of each kind; None where the device does not say.

        It is asked for what is not known, and for what is known as `again` (None: for everything).
        """
        device = self._devices.get(connection)
        if device is None:
            device = self._devices[connection] = _Device()
        async with device.asking:
            unknown = [
                kind
                for kind in kinds
                if again is None or device.lists.get(kind, again) == again or not self._is_kept(device.lists.get(kind))
            ]
            if unknown:
                answers = await self._ask(session, connection, unknown)
                # To UFO's client, a type that its agent has no servers for is an error of ours: it is silent.
                says = any(tools is not None for tools in answers.values())
                for kind, tools in answers.items():
                    device.lists[kind] = self._keep(tools or []) if says else UNSAID
            return {kind: self._kept(device.lists[kind]) for kind in kinds}

    def _is_kept(self, digest: bytes | None) -> bool:
        return digest is not None and (digest == UNSAID or digest in self._lists)

    def _keep(self, tools: list[Tool]) -> bytes:
        digest = hashlib.blake2b(orjson.dumps(tools), digest_size=16).digest()
        self._lists.setdefault(digest, tools)
        self._lists.move_to_end(digest)
        while len(self._lists) > KEPT:
            self._lists.popitem(last=False)
        return digest

    def _kept(self, digest: bytes) -> list[Tool] | None:
        if digest not in self._lists:
            return None
        self._lists.move_to_end(digest)
        return self._lists[digest]

    def _registered(self, connection: Connection) -> list[Tool]:
        listed = orjson.loads(connection.profile).get("tools")
        return self._parse(listed, None, connection) if isinstance(listed, list) else []

    async def _ask(
        self, session: SessionMachine, connection: Connection, kinds: Sequence[_Kind]
    ) -> dict[_Kind, list[Tool] | None]:
        """Ask for the tools of each kind; None for what is not answered in time."""
        ids = {new_id(): kind for kind in kinds}
        loop = asyncio.get_running_loop()
        asked = {loop.create_future(): response_id for response_id in ids}
        self.asked |= {response_id: (connection, future) for future, response_id in asked.items()}
        try:
            for response_id, (names, tool_type) in ids.items():
                _send(session, connection, response_id, names, tool_type)
            done, pending = await asyncio.wait(asked, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if done and pending:
                done_late, _ = await asyncio.wait(pending, timeout=SECOND_ANSWER_S)
                done |= done_late
        finally:
            for response_id in ids:
                del self.asked[response_id]
        found: dict[_Kind, list[Tool] | None] = dict.fromkeys(kinds)
        for future in done:
            kind = ids[asked[future]]
            for result in future.result().action_results or []:
                if result.status is ResultStatus.SUCCESS and isinstance(result.result, list):
                    tools = self._parse(result.result, kind[0].agent_name, connection)
                    found[kind] = [*(found[kind] or ()), *tools]
        if all(tools is None for tools in found.values()):
            log.warning("the device lists no tools", extra={"client_id": connection.client_id})
        return found

    def _parse(self, listed: list[Any], agent_name: str | None, connection: Connection) -> list[Tool]:
        qualified = QUALIFIED_TOOLS in connection.features
        tools: dict[tuple[str, str, str], Tool] = {}
        for item in listed[:TOOLS_BOUND]:
            if not isinstance(item, dict) or not isinstance(item.get("tool_name"), str):
                continue
            schema = item.get("input_schema")
            tool_type = item.get("tool_type")
            tool = Tool(
                name=item["tool_name"][:256],
                tool_type=tool_type if tool_type in TOOL_TYPES else "action",
                namespace=str(item.get("namespace") or "device")[:64],
                description=str(item.get("description") or "")[:4096],
                input_schema=self._secrets.hide(item["tool_name"], _bounded(schema)),
                agent_name=agent_name,
                qualified=qualified,
            )
            # Of the same tool listed twice the first counts: that is the one which UFO's client runs.
            tools.setdefault((tool.namespace, tool.name, tool.tool_type), tool)
        return list(tools.values())


def _send(session: SessionMachine, connection: Connection, response_id: str, names: AgentNames, tool_type: str) -> None:
    command = Command(tool_name=LIST_TOOLS, tool_type=tool_type, parameters={"tool_type": tool_type}, call_id="tools")
    connection.send(
        ServerMessage(
            type=ServerMessageType.COMMAND,
            status=TaskStatus.CONTINUE,
            session_id=session.spec.session_id,
            response_id=response_id,
            actions=[command],
            agent_name=names.agent_name,
            process_name=names.process_name,
            root_name=names.root_name,
        )
    )


def _bounded(schema: Any) -> dict[str, Any]:
    """A schema that a device sent; a tool whose own is no object, or too large, is offered without one."""
    return schema if isinstance(schema, dict) and len(orjson.dumps(schema)) <= SCHEMA_BYTES else {}


def _missing(
    wanted: Iterable[tuple[str, str]], listed: dict[_Kind, list[Tool] | None], names: AgentNames
) -> str | None:
    """The sentence that names the first wanted tool that the device has not, and those that it has."""
    for tool_type, name in wanted:
        tools = listed[names, tool_type]
        if tools is None or any(tool.name == name for tool in tools):
            continue
        known = sorted({f"{tool.name} ({tool.tool_type})" for tools in listed.values() for tool in tools or ()})
        more = f", and {len(known) - NAMED_TOOLS} more" if len(known) > NAMED_TOOLS else ""
        there = f"it has {', '.join(known[:NAMED_TOOLS])}{more}" if known else "it has none"
        return f"The device has no tool '{name}' ({tool_type}) for agent {names.agent_name}: {there}"
    return None
