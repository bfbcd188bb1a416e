"""A device of UFO's kind under the planner that asks a model: which tools it lists, and what it does when called."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from aip_cluster.protocol import Command, Result, ResultStatus, ServerMessage
from devtools.model_server import ModelServer, Scripted
from node.app import Node
from tests.support.asgi import Device, rest
from tests.support.wait import PATIENCE_S

__all__ = ["LISTED", "Json", "Stage", "Tools", "echo", "listed", "stage"]

Json = dict[str, Any]
Tools = dict[str | None, dict[str, list[Json]]]
Act = Callable[[Command], Result]


def listed(name: str, namespace: str, *parameters: str, tool_type: str = "action") -> Json:
    """A tool as UFO's device lists it."""
    return {
        "tool_key": f"{tool_type}::{name}",
        "tool_name": name,
        "title": None,
        "namespace": namespace,
        "tool_type": tool_type,
        "description": f"does {name}",
        "input_schema": {
            "type": "object",
            "properties": {p: {"type": "string"} for p in parameters},
            "required": list(parameters),
        },
        "output_schema": None,
        "meta": None,
        "annotations": None,
    }


LISTED: list[Any] = [listed("execute_command", "BashExecutor", "command", "api_key")]


def echo(command: Command) -> Result:
    """Answers with what the tool was called with."""
    return Result(status=ResultStatus.SUCCESS, result=command.parameters, call_id=command.call_id)


class _UfoDevice:
    """Serves `tools[agent][type]`, and says nothing at all about a type that its agent has no servers for."""

    def __init__(self, device: Device, tools: Tools, act: Act = echo) -> None:
        self._device = device
        self._tools = tools
        self._act = act
        self.asked: list[tuple[str | None, str, str | None, str | None]] = []
        self.commands: list[tuple[ServerMessage, Command]] = []

    async def serve(self) -> None:
        while True:
            message, actions = await self._device.next_commands()
            if actions[0].tool_name != "list_tools":
                self.commands += [(message, action) for action in actions]
                self._device.answer(message, *[self._act(action) for action in actions])
                continue
            tool_type = str((actions[0].parameters or {})["tool_type"])
            assert actions[0].tool_type == tool_type
            self.asked.append((message.agent_name, tool_type, message.process_name, message.root_name))
            tools = self._tools.get(message.agent_name, {}).get(tool_type)
            if tools is not None:
                self._device.answer(message, Result(status=ResultStatus.SUCCESS, result=tools))


class Stage:
    """A node, an endpoint, a device, and REST."""

    def __init__(self, node: Node, llm: ModelServer, device: _UfoDevice, client: httpx.AsyncClient) -> None:
        self.node = node
        self.llm = llm
        self.device = device
        self._client = client

    async def run(self, **fields: Any) -> Json:
        """The session of a dispatch in words, ended."""
        body = {"client_id": "device-1", "request": "sum the column", "timeout_s": PATIENCE_S, **fields}
        dispatched = await self._client.post("/api/dispatch", json=body)
        assert dispatched.status_code == 200, dispatched.text
        session_id = dispatched.json()["session_id"]
        result = await self._client.get(f"/api/task_result/{session_id}", params={"wait": PATIENCE_S})
        assert result.json()["status"] == "done", result.text
        session: Json = (await self._client.get(f"/api/sessions/{session_id}")).json()
        return session


@asynccontextmanager
async def stage(
    make_node: Callable[..., Awaitable[Node]],
    platform: str,
    tools: Tools,
    *script: Scripted,
    act: Act = echo,
    registered: list[Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Stage]:
    """All of them, over a model that answers by `script`; `registered`: the tools that the device lists at once."""
    async with ModelServer(*script) as llm:
        node = await make_node(llm_base_url=llm.url, llm_model="scripted-1", **settings)
        raw = Device(node)
        raw.lists_tools = True
        raw.metadata["platform"] = platform
        if registered is not None:
            raw.metadata["tools"] = registered
        async with rest(node, timeout=PATIENCE_S * 2) as client, raw:
            device = _UfoDevice(raw, tools, act)
            serving = asyncio.create_task(device.serve())
            try:
                yield Stage(node, llm, device, client)
            finally:
                serving.cancel()
                await asyncio.wait([serving])
