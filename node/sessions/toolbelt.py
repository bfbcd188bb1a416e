"""The tools of the devices on this node, looked up when a planner wants them.

A device may have listed them at registration (`metadata.tools`); otherwise it is asked with `list_tools`, once for each
tool type, since UFO's device answers only for types that its agent has servers for, and to others not at all: what
comes within the time is taken. Kept for the socket's life, the 256 used last.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import orjson

from aip import ClientMessage, Command, ResultStatus, ServerMessage, ServerMessageType, TaskStatus, new_id
from node.sessions.local_session import LocalSession
from node.sessions.planners import Tool
from node.sessions.platforms import AgentNames
from node.sessions.secrets import ToolSecrets

__all__ = ["Toolbelt"]

log = logging.getLogger(__name__)

KEPT = 256
TOOLS_BOUND = 256
LIST_TOOLS = "list_tools"
TYPES = ("action", "data_collection")
# After the first answer the other may still be on its way, or will never come.
SECOND_ANSWER_S = 2.0

_Key = tuple[str, AgentNames]


class Toolbelt:
    """Looks up tools. One per node."""

    def __init__(self, secrets: ToolSecrets, *, timeout_s: float) -> None:
        self._secrets = secrets
        self._timeout_s = timeout_s
        self._kept: OrderedDict[_Key, list[Tool]] = OrderedDict()

    async def tools(self, session: LocalSession, agents: Sequence[AgentNames]) -> list[Tool]:
        """The tools that these agents of the session's device have; empty if the device does not say."""
        registered = self._registered(session)
        if registered:
            return registered
        found: list[Tool] = []
        for names in agents:
            key = (session.connection.connection_id, names)
            if key not in self._kept:
                asked = await self._ask(session, names)
                if not asked:
                    continue
                self._kept[key] = asked
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            found += self._kept[key]
        return found

    def _registered(self, session: LocalSession) -> list[Tool]:
        listed = orjson.loads(session.connection.profile).get("tools")
        return self._parse(listed, None) if isinstance(listed, list) else []

    async def _ask(self, session: LocalSession, names: AgentNames) -> list[Tool]:
        answers = [self._send(session, names, tool_type) for tool_type in TYPES]
        done, pending = await asyncio.wait(answers, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if done and pending:
            done_late, pending = await asyncio.wait(pending, timeout=SECOND_ANSWER_S)
            done |= done_late
        for future in pending:
            future.cancel()
        found: list[Tool] = []
        for future in answers:
            if future in done and not future.cancelled():
                for result in future.result().action_results or []:
                    if result.status is ResultStatus.SUCCESS and isinstance(result.result, list):
                        found += self._parse(result.result, names.agent_name)
        if not found:
            log.warning("the device lists no tools", extra={"client_id": session.connection.client_id})
        return found

    @staticmethod
    def _send(session: LocalSession, names: AgentNames, tool_type: str) -> "asyncio.Future[ClientMessage]":
        response_id = new_id()
        answer = session.expect(response_id)
        command = Command.model_validate(
            {
                "tool_name": LIST_TOOLS,
                "tool_type": tool_type,
                "parameters": {"tool_type": tool_type},
                "call_id": "tools",
            }
        )
        session.connection.send(
            ServerMessage(
                type=ServerMessageType.COMMAND,
                status=TaskStatus.CONTINUE,
                session_id=session.session_id,
                response_id=response_id,
                actions=[command],
                agent_name=names.agent_name,
                process_name=names.process_name,
                root_name=names.root_name,
            )
        )
        return answer

    def _parse(self, listed: list[Any], agent_name: str | None) -> list[Tool]:
        tools: dict[tuple[str, str, str], Tool] = {}
        for item in listed[:TOOLS_BOUND]:
            if not isinstance(item, dict) or not isinstance(item.get("tool_name"), str):
                continue
            schema = item.get("input_schema")
            tool_type = item.get("tool_type")
            tool = Tool(
                name=item["tool_name"][:256],
                tool_type=tool_type if tool_type in TYPES else "action",
                namespace=str(item.get("namespace") or "device")[:64],
                description=str(item.get("description") or "")[:4096],
                input_schema=self._secrets.hide(item["tool_name"], schema if isinstance(schema, dict) else {}),
                agent_name=agent_name,
            )
            tools[tool.namespace, tool.name, tool.tool_type] = tool
        return list(tools.values())
