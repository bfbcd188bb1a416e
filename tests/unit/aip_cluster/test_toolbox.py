"""Names to tools, parameters to arguments, results to values."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp.server import MCPServer
from mcp_types import ImageContent, ToolAnnotations

from aip_cluster.device.servers.spec import LOCAL_NAMESPACE
from aip_cluster.device.toolbox import InvalidParameters, Toolbox, ToolFailed, ToolNotFound
from aip_cluster.protocol import Command
from tests.unit.aip_cluster.toolboxes import inside, local_server


def other_server() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("other")

    @server.tool()
    def words() -> list[str]:
        return ["a", "b"]

    @server.tool()
    def greet(name: str = "you") -> str:
        return f"hello {name}"

    @server.tool()
    def count(n: int | None) -> dict[str, Any]:
        return {"n": n}

    @server.tool()
    def whisper(api_key: str) -> str:
        return api_key

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def picture() -> ImageContent:
        return ImageContent(type="image", data="aGk=", mime_type="image/png")

    @server.tool(structured_output=False)
    def text() -> str:
        return "plain"

    @server.tool()
    def crash() -> str:
        raise RuntimeError("private detail")

    @server.tool()
    def read_file(path: str) -> str:
        return path

    return server


@pytest.fixture
async def tools(workdir: Path) -> AsyncIterator[Toolbox]:
    local = inside(LOCAL_NAMESPACE, local_server(workdir))
    async with Toolbox([local, inside("other", other_server())]) as toolbox:
        yield toolbox


async def call(tools: Toolbox, name: str, parameters: dict[str, Any] | None = None, **fields: Any) -> Any:
    return (await tools.call(Command(tool_name=name, parameters=parameters, **fields))).value


async def test_a_tool_is_found_by_its_bare_name_and_by_its_namespace(tools: Toolbox) -> None:
    assert await call(tools, "greet", {"name": "x"}) == "hello x"
    outcome = await tools.call(Command(tool_name="other.greet"))
    assert (outcome.value, outcome.namespace) == ("hello you", "other")


async def test_a_name_that_two_servers_use_must_be_qualified(tools: Toolbox) -> None:
    with pytest.raises(ToolNotFound, match=r"ambiguous: say local\.read_file or other\.read_file"):
        await call(tools, "read_file", {"path": "x"})
    assert await call(tools, "other.read_file", {"path": "x"}) == "x"
    assert "local.read_file" in tools.names()
    assert "write_file" in tools.names()


async def test_an_unknown_tool_is_answered_with_names_that_come_close(tools: Toolbox) -> None:
    with pytest.raises(ToolNotFound, match="no tool 'exec_command'; did you mean execute_command"):
        await call(tools, "exec_command")
    with pytest.raises(ToolNotFound, match="there are: execute_command"):
        await call(tools, "zzzz")


async def test_a_tool_is_found_whatever_tool_type_the_command_gives(tools: Toolbox) -> None:
    assert (await call(tools, "execute_command", {"command": "echo x"}, tool_type="data_collection"))["stdout"] == "x\n"
    assert await call(tools, "words", tool_type="data_collection") == ["a", "b"]


@pytest.mark.parametrize(
    ("tool", "parameters", "message"),
    [
        ("execute_command", {}, "execute_command: parameter 'command' is missing"),
        ("execute_command", {"command": 5}, "parameter 'command': 5 is not of type 'string'"),
        ("execute_command", {"command": "x", "timeout": "5"}, "parameter 'timeout': '5' is not of type 'number'"),
        ("execute_command", {"command": "x", "timeout": 0}, "parameter 'timeout': 0 is less than"),
        ("execute_command", {"command": "x", "timout": 5}, "'timout' is not known; there are: command, timeout, cwd"),
        ("get_system_info", {"x": 1}, "'x' is not known; there are: none"),
        ("list_tools", {"tool_type": ["action"]}, "parameter 'tool_type': must be"),
        ("list_tools", {"namespace": "nowhere"}, "parameter 'namespace': must be one of"),
    ],
)
async def test_parameters_that_do_not_fit_fail_by_name_before_the_call(
    tools: Toolbox, tool: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameters, match=message):
        await call(tools, tool, parameters)


async def test_the_api_key_that_ufo_adds_is_ignored_except_by_a_tool_that_wants_one(tools: Toolbox) -> None:
    assert (await call(tools, "execute_command", {"command": "echo x", "api_key": "k"}))["stdout"] == "x\n"
    assert await call(tools, "get_system_info", {"api_key": "k"}) == {"platform": "linux"}
    assert await call(tools, "whisper", {"api_key": "k"}) == "k"


async def test_null_means_absent_where_the_schema_has_no_null(tools: Toolbox) -> None:
    assert await call(tools, "greet", {"name": None}) == "hello you"
    assert await call(tools, "count", {"n": None}) == {"n": None}
    with pytest.raises(InvalidParameters, match="'command' is missing"):
        await call(tools, "execute_command", {"command": None})


async def test_results_come_structured_unwrapped_or_else_as_text(tools: Toolbox) -> None:
    assert await call(tools, "words") == ["a", "b"]
    assert await call(tools, "greet") == "hello you"
    assert await call(tools, "text") == "plain"
    assert await call(tools, "picture") == [{"type": "image", "data": "aGk=", "mimeType": "image/png"}]


async def test_a_tool_that_crashes_fails_without_telling_why(tools: Toolbox) -> None:
    with pytest.raises(ToolFailed) as caught:
        await call(tools, "crash")
    assert "private detail" not in str(caught.value)
    assert caught.value.namespace == "other"


async def test_the_meta_tool_lists_tools_in_the_form_of_the_protocol(tools: Toolbox) -> None:
    listed = await call(tools, "list_tools", {"tool_type": "action", "namespace": "local"}, tool_type="action")
    by_name = {tool["tool_name"]: tool for tool in listed}
    assert set(by_name) == {"execute_command", "write_file", "send_file"}
    entry = by_name["execute_command"]
    assert set(entry) == {
        "tool_key",
        "tool_name",
        "title",
        "namespace",
        "tool_type",
        "description",
        "input_schema",
        "output_schema",
        "meta",
        "annotations",
    }
    assert entry["tool_key"] == "action::execute_command"
    assert entry["namespace"] == "local"
    assert entry["input_schema"]["required"] == ["command"]
    assert "api_key" not in entry["input_schema"]["properties"]
    assert "not a sandbox" in entry["description"]
    reads = await call(tools, "list_tools", {"tool_type": "data_collection", "namespace": "local"})
    assert {tool["tool_name"] for tool in reads} == {"get_system_info", "read_file", "list_files"}
    assert len(await call(tools, "list_tools")) == 14
