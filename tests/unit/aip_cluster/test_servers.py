"""MCP servers of every kind, with real processes and real sockets: reached, lost, and brought back."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from aip_cluster.device import toolbox as toolbox_module
from aip_cluster.device.errors import InvalidParameters, ToolFailed, ToolNotFound
from aip_cluster.device.origin import Origin
from aip_cluster.device.servers import server as server_module
from aip_cluster.device.servers import stdio as stdio_module
from aip_cluster.device.servers.opening import opener_for
from aip_cluster.device.servers.server import ToolServer
from aip_cluster.device.servers.spec import Spec, SpecError, parse_servers
from aip_cluster.device.toolbox import Toolbox
from aip_cluster.protocol import Command
from aip_cluster.protocol.backoff import Backoff
from devtools.topologies import free_port
from tests.support.memory import memory_held
from tests.unit.aip_cluster.http_servers import serving
from tests.unit.aip_cluster.scripted import PATIENCE_S
from tests.unit.aip_cluster.toolboxes import NOTHING, eager, inside, outside

SCRIPT = Path(__file__).parent / "stdio_server.py"


def spec_of(environ: dict[str, str] | None = None, **entry: Any) -> Spec:
    (spec,) = [s for s in parse_servers([entry], environ or {}) if s.type != "builtin"]
    return spec


def script(namespace: str = "script", *, environ: dict[str, str] | None = None, **fields: Any) -> ToolServer:
    entry = {"namespace": namespace, "type": "stdio", "command": sys.executable, "args": [str(SCRIPT)], **fields}
    return outside(spec_of(environ, **entry))


def remote(port: int, **fields: Any) -> ToolServer:
    url = f"http://127.0.0.1:{port}/mcp"
    return outside(spec_of(**{"namespace": "remote", "type": "http", "url": url, **fields}))


def remote_server() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("remote")

    @server.tool()
    def reverse(text: str) -> str:
        return text[::-1]

    @server.tool()
    async def wait() -> str:
        await asyncio.Event().wait()
        return "never"

    return server


def greeter() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("greeter")

    @server.tool()
    def greet(name: str) -> str:
        return f"hello {name}"

    @server.tool()
    def shout(text: str) -> str:
        return text + "!"

    return server


class Changes:
    """Counts the changes of a toolbox, and waits for what they lead to."""

    def __init__(self) -> None:
        self.count = 0
        self._happened = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._happened.set()
        self._happened = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await self._happened.wait()


@asynccontextmanager
async def toolbox(*servers: ToolServer) -> AsyncIterator[tuple[Toolbox, Changes]]:
    changes = Changes()
    async with Toolbox(servers, on_change=changes) as tools:
        yield tools, changes


async def call(tools: Toolbox, tool: str, /, *, agent_name: str | None = None, **parameters: Any) -> Any:
    outcome = await tools.call(Command(tool_name=tool, parameters=parameters), Origin("s", agent_name))
    return outcome.value


async def dead(pid: int) -> None:
    processes = [psutil.Process(pid)] if psutil.pid_exists(pid) else []
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=PATIENCE_S)
    assert not alive


async def test_servers_of_three_kinds_serve_side_by_side() -> None:
    port = free_port()
    async with (
        serving(remote_server().streamable_http_app(), port),
        toolbox(inside("greeter", greeter()), script(), remote(port)) as (tools, changes),
    ):
        await changes.until(lambda: all(server["connected"] for server in tools.servers()))
        assert await call(tools, "greet", name="you") == "hello you"
        assert await call(tools, "reverse", text="abc") == "cba"
        assert await call(tools, "script.shout", text="abc") == "ABC"
        assert await call(tools, "greeter.shout", text="abc") == "abc!"
        pid = await call(tools, "pid")
        with pytest.raises(ToolNotFound, match=r"ambiguous: say greeter\.shout or script\.shout"):
            await call(tools, "shout", text="abc")
        with pytest.raises(InvalidParameters, match="shout: parameter 'text' is missing"):
            await call(tools, "script.shout")
        with pytest.raises(InvalidParameters, match="reverse: parameter 'text': 5 is not of type 'string'"):
            await call(tools, "reverse", text=5)
        assert {tool["namespace"] for tool in tools.list_tools()} == {"greeter", "script", "remote"}
    await dead(pid)


async def test_a_server_that_crashes_fails_its_call_and_comes_back_while_others_go_on() -> None:
    async with toolbox(inside("greeter", greeter()), script()) as (tools, changes):
        await changes.until(lambda: "pid" in tools.names())
        first = await call(tools, "pid")
        with pytest.raises(ToolFailed, match=r"script\.crash: its server went away while the tool ran") as caught:
            await call(tools, "crash", last_words="alas")
        assert caught.value.namespace == "script"
        assert await call(tools, "greet", name="you") == "hello you"
        await changes.until(lambda: "pid" in tools.names() and changes.count >= 4)
        assert await call(tools, "pid") != first


async def test_while_a_server_is_away_its_tools_are_too_and_a_call_says_why() -> None:
    lost = script()
    # Away for good, as far as this test is concerned.
    lost._backoff = Backoff(base_s=3600, cap_s=3600, rng=lambda: 1.0)
    async with toolbox(inside("greeter", greeter()), lost) as (tools, changes):
        await changes.until(lambda: "pid" in tools.names())
        with pytest.raises(ToolFailed):
            await call(tools, "crash", last_words="alas")
        await changes.until(lambda: "pid" not in tools.names())
        assert tools.names() == ["greet", "shout"]
        for name in ("pid", "script.pid"):
            with pytest.raises(
                ToolFailed, match=r"script\.pid: its server is away \(it ended with exit code 3"
            ) as caught:
                await call(tools, name)
            assert "its last words: 'alas'" in str(caught.value)
        described = {server["namespace"]: server for server in tools.servers()}
        assert described["greeter"]["connected"] is True
        assert described["script"]["connected"] is False
        assert "exit code 3" in described["script"]["error"]


async def test_a_server_that_is_killed_is_started_again_without_a_call_having_to_fail() -> None:
    async with toolbox(script()) as (tools, changes):
        await changes.until(lambda: "pid" in tools.names())
        first = await call(tools, "pid")
        before = changes.count
        os.kill(first, signal.SIGKILL)
        await changes.until(lambda: changes.count >= before + 2)
        assert await call(tools, "pid") != first


async def test_a_tool_that_hangs_fails_in_time_and_its_server_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CHECK_S", 0.2)
    # Long enough for a server that is well, on a machine that is busy.
    async with toolbox(script(timeout_s=3)) as (tools, changes):
        await changes.until(lambda: "pid" in tools.names())
        first = await call(tools, "pid")
        before = changes.count
        with pytest.raises(ToolFailed, match=r"script\.hang: no answer within 3 s"):
            await call(tools, "hang")
        await changes.until(lambda: changes.count >= before + 2)
        assert await call(tools, "pid") != first
        await dead(first)


async def test_the_timeout_of_a_tool_counts_before_that_of_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbox_module, "TOOL_GRACE_S", 20.0)
    async with toolbox(script(timeout_s=1e-6)) as (tools, changes):
        await changes.until(lambda: "pid" in tools.names())
        with pytest.raises(ToolFailed, match="no answer within"):
            await call(tools, "pid")
        assert await call(tools, "slow", timeout=0.1) == "slept"


async def test_what_a_server_writes_that_is_not_mcp_is_passed_over() -> None:
    async with toolbox(script()) as (tools, changes):
        await changes.until(lambda: "pid" in tools.names())
        assert await call(tools, "flood", lines=1000, length=80) == "flooded"


@pytest.mark.parametrize("ends", [True, False])
async def test_a_server_that_floods_its_output_is_replaced_and_memory_stays_bounded(
    ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio_module, "MAX_LINE_BYTES", 1024 * 1024)
    monkeypatch.setattr(stdio_module, "MAX_GARBAGE_BYTES", 1024 * 1024)
    async with toolbox(script()) as (tools, changes):
        await changes.until(lambda: "pid" in tools.names())
        count = changes.count
        with (
            memory_held() as held,
            pytest.raises(ToolFailed, match="its server went away while the tool ran: it wrote"),
        ):
            await call(tools, "flood", lines=10_000, length=100_000, ends=ends)
        assert 0 < held.peak_bytes < 16 * 1024 * 1024
        await changes.until(lambda: changes.count >= count + 2)
        assert await call(tools, "script.shout", text="a") == "A"


async def test_a_server_that_is_not_there_at_the_start_is_used_once_it_is() -> None:
    port = free_port()
    async with toolbox(inside("greeter", greeter()), remote(port)) as (tools, changes):
        assert tools.names() == ["greet", "shout"]
        assert tools.servers()[1]["error"]
        with pytest.raises(ToolFailed, match=r"remote\.reverse: its server is away"):
            await call(tools, "remote.reverse", text="abc")
        async with serving(remote_server().streamable_http_app(), port):
            await changes.until(lambda: "reverse" in tools.names())
            assert await call(tools, "reverse", text="abc") == "cba"
        with pytest.raises(ToolFailed, match=r"^remote\.reverse: "):
            await call(tools, "reverse", text="abc")
        await changes.until(lambda: "reverse" not in tools.names())
        assert await call(tools, "greet", name="you") == "hello you"
        async with serving(remote_server().streamable_http_app(), port):
            await changes.until(lambda: "reverse" in tools.names())
            assert await call(tools, "reverse", text="abc") == "cba"


async def test_a_remote_tool_that_hangs_fails_alone() -> None:
    port = free_port()
    async with (
        serving(remote_server().streamable_http_app(), port),
        toolbox(remote(port, timeout_s=3)) as (tools, changes),
    ):
        await changes.until(lambda: "wait" in tools.names())
        with pytest.raises(ToolFailed, match=r"remote\.wait: no answer within 3 s"):
            await call(tools, "wait")
        assert await call(tools, "reverse", text="abc") == "cba"


async def test_headers_and_variables_reach_the_servers_and_nothing_of_the_agents_own_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIP_API_KEY", "k3y-of-mine")
    seen: list[str] = []
    port = free_port()
    app = remote_server().streamable_http_app()

    async def watching(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        await app(scope, receive, send)

    environ = {"TOKEN": "t0ken"}
    headers = {"Authorization": "Bearer ${TOKEN}"}
    url = f"http://127.0.0.1:{port}/mcp"
    spec = spec_of(environ, namespace="remote", type="http", url=url, headers=headers)
    assert "t0ken" not in repr(spec)
    async with (
        serving(watching, port),
        toolbox(outside(spec), script(environ=environ, env={"GIVEN": "${TOKEN}"})) as (tools, changes),
    ):
        await changes.until(lambda: {"reverse", "variable"} <= set(tools.names()))
        await call(tools, "reverse", text="abc")
        assert set(seen) == {"Bearer t0ken"}
        assert await call(tools, "variable", name="GIVEN") == "t0ken"
        assert await call(tools, "variable", name="AIP_API_KEY") is None


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"type": "stdio", "command": "/no/such/program"}, "cannot be started: No such file or directory"),
        ({"type": "stdio", "command": "false"}, "it ended with exit code 1"),
        ({"type": "stdio", "command": sys.executable, "cwd": "/no/such/folder"}, "cannot be started"),
    ],
)
async def test_a_command_that_is_none_is_reported_and_hurts_nobody(entry: dict[str, Any], error: str) -> None:
    async with toolbox(inside("greeter", greeter()), outside(spec_of(namespace="bad", **entry))) as (tools, _):
        assert tools.names() == ["greet", "shout"]
        assert error in tools.servers()[1]["error"] or "closed" in tools.servers()[1]["error"].lower()


async def test_a_server_shows_itself_to_the_agents_that_it_serves_and_to_no_others() -> None:
    host = inside("host", greeter(), agent=["HostAgent", "AppAgent"])
    linux = inside("linux", greeter(), agent="LinuxAgent")
    async with toolbox(host, linux, inside("all", remote_server())) as (tools, _):

        async def listed(agent_name: str | None) -> set[str]:
            return {tool["namespace"] for tool in await call(tools, "list_tools", agent_name=agent_name)}

        assert await listed("AppAgent") == {"host", "all"}
        assert await listed("LinuxAgent") == {"linux", "all"}
        assert await listed("MobileAgent") == {"all"}
        assert await listed(None) == {"host", "linux", "all"}
        # Ambiguous for everyone, but not for those who see one of the two.
        assert await call(tools, "shout", agent_name="LinuxAgent", text="a") == "a!"
        with pytest.raises(ToolNotFound, match="there is no tool 'shout' for agent 'MobileAgent'; there are: reverse"):
            await call(tools, "shout", agent_name="MobileAgent", text="a")
        with pytest.raises(ToolNotFound, match=r"no tool 'host\.shout' for agent 'LinuxAgent'"):
            await call(tools, "host.shout", agent_name="LinuxAgent", text="a")
        with pytest.raises(InvalidParameters, match=r"must be one of \['all', 'linux'\]"):
            await call(tools, "list_tools", agent_name="LinuxAgent", namespace="host")
        assert await call(tools, "shout", agent_name="AppAgent", text="a") == "a!"


async def test_the_tool_type_can_be_configured_for_a_server() -> None:
    async with toolbox(inside("all", greeter(), tool_type="data_collection")) as (tools, _):
        assert await call(tools, "list_tools", tool_type="action") == []
        described = await call(tools, "list_tools", tool_type="data_collection")
        assert {tool["tool_key"] for tool in described} == {"data_collection::greet", "data_collection::shout"}


async def test_tools_that_a_server_gains_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CHECK_EVERY_S", 0.02)
    growing = greeter()
    async with toolbox(inside("all", growing)) as (tools, changes):
        assert changes.count == 1

        @growing.tool()
        def late() -> str:
            raise ToolError("too late")

        await changes.until(lambda: "late" in tools.names())
        assert changes.count == 2
        with pytest.raises(ToolFailed, match="too late"):
            await call(tools, "late")


async def test_a_schema_that_cannot_be_used_fails_its_own_tool_only() -> None:
    odd = greeter()

    @odd.tool()
    def strange(x: str) -> str:
        return x

    tool = odd._tool_manager.get_tool("strange")
    assert tool is not None
    tool.parameters["properties"]["x"] = {"$ref": "http://nowhere.invalid/schema"}
    async with toolbox(inside("all", odd)) as (tools, _):
        with pytest.raises(ToolFailed, match="strange: the tool's input schema cannot be used"):
            await call(tools, "strange", x="a")
        assert await call(tools, "greet", name="you") == "hello you"


TARGET = greeter()


async def test_a_server_in_a_module_is_found_by_its_target() -> None:
    found = spec_of(namespace="py", type="python", target=f"{__name__}:TARGET")
    async with toolbox(ToolServer(found, opener_for(found, NOTHING), backoff=eager())) as (tools, _):
        assert await call(tools, "py.greet", name="you") == "hello you"


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("no_such_module:x", "'no_such_module' cannot be imported: ModuleNotFoundError"),
        (f"{__name__}:SCRIPT", "is no MCPServer but"),
        (f"{__name__}:nothing", "is no MCPServer but NoneType"),
    ],
)
def test_a_target_that_is_none_is_an_error_of_the_configuration(target: str, error: str) -> None:
    with pytest.raises(SpecError) as caught:
        opener_for(spec_of(namespace="py", type="python", target=target), NOTHING)
    assert caught.value.key == "mcp_servers.py.target"
    assert error in str(caught.value)


async def test_cancelling_a_call_returns_though_the_tool_does_not_heed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CANCEL_S", 0.05)
    deaf: MCPServer[Any] = MCPServer("deaf")
    heard, started = asyncio.Event(), asyncio.Event()

    @deaf.tool()
    async def ignore() -> str:
        started.set()
        while not heard.is_set():
            try:
                await heard.wait()
            except asyncio.CancelledError:
                continue
        return "at last"

    async with toolbox(inside("all", deaf)) as (tools, _):
        calling = asyncio.create_task(call(tools, "ignore"))
        await started.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(PATIENCE_S):
                await calling
        heard.set()
        await asyncio.sleep(0.05)
