"""The agent as a process of its own: command line, registration, work, and the way it ends."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from aip_cluster.device import __main__ as command_line
from aip_cluster.protocol import new_id
from tests.support.wait import until
from tests.unit.aip_cluster.scripted import PATIENCE_S, ScriptedServer

ROOT = Path(command_line.__file__).parents[2]


@asynccontextmanager
async def agent(
    url: str, workdir: Path, *, config: Path | None = None, **environ: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "aip_cluster.device", "start"),
        *("--server", url, "--id", "lab-1", "--workdir", str(workdir)),
        *(("--config", str(config)) if config is not None else ()),
        cwd=ROOT,
        env={**os.environ, **environ},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(PATIENCE_S):
        _, stderr = await process.communicate()
    return stderr.decode()


def actions(*calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"tool_name": name, "parameters": parameters, "tool_type": "action", "call_id": f"c{index}"}
        for index, (name, parameters) in enumerate(calls)
    ]


async def test_an_agent_registers_works_and_stops_cleanly_on_sigterm(server: ScriptedServer, workdir: Path) -> None:
    async with agent(server.url, workdir, AIP_API_KEY="k3y-of-mine") as process:
        peer = await server.peer()
        assert peer.header("X-API-Key") == "k3y-of-mine"
        metadata = (await peer.accept())["metadata"]
        assert metadata["system_info"]["device_id"] == "lab-1"
        assert {"cli", "commands_without_echo", "deduplicates"} <= set(metadata["system_info"]["supported_features"])
        assert metadata["mcp_servers"] == ["local"]
        described = {tool["tool_name"]: tool for tool in metadata["tools"]}
        assert described["execute_command"]["tool_key"] == "action::execute_command"
        assert described["execute_command"]["input_schema"]["required"] == ["command"]

        await peer.send(
            "command",
            session_id="s1",
            response_id="r1",
            status="continue",
            actions=actions(
                ("write_file", {"path": "a", "content": "hello"}), ("execute_command", {"command": "cat a"})
            ),
        )
        answer = await peer.receive("command_results")
        assert [result["status"] for result in answer["action_results"]] == ["success", "success"]
        assert answer["action_results"][1]["result"]["stdout"] == "hello"

        await peer.send("command", session_id="s2", response_id="r2", actions=actions(("list_tools", {})))
        listed = (await peer.receive("command_results"))["action_results"][0]["result"]
        assert len(listed) == 6

        command = "sleep 300 & echo $! > child; mv child pid; wait"
        await peer.send(
            "command",
            session_id="s3",
            response_id="r3",
            actions=actions(("execute_command", {"command": command, "timeout": 300})),
        )
        await peer.send(
            "command",
            session_id="s4",
            response_id="r4",
            actions=actions(("execute_command", {"command": "until [ -e pid ]; do sleep 0.01; done"})),
        )
        await peer.receive("command_results")
        child = int((workdir / "pid").read_text())

        process.send_signal(signal.SIGTERM)
        assert await peer.closed() == 1000
        log = await ended(process)
        assert process.returncode == 0, log
        assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
        assert "k3y-of-mine" not in log
        assert "hello" not in log
        assert "Traceback" not in log


async def test_an_agent_that_reaches_nobody_still_stops_on_sigint(workdir: Path) -> None:
    async with agent("ws://127.0.0.1:9/ws", workdir) as process:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while b"cannot reach" not in await process.stderr.readline():
                pass
        process.send_signal(signal.SIGINT)
        await ended(process)
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["start", "--id", "x"], "aip-device: nothing says server: give --server, or set AIP_DEVICE_SERVER\n"),
        (["start", "--id", "x", "--server", "h"], "aip-device: --server: must look like ws://host:port/ws"),
    ],
)
def test_wrong_settings_end_with_2_and_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "_configure_logging", lambda level: None)
    assert command_line.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_a_command_line_without_a_command_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.main([])
    assert caught.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["mcp", "psutil", "jsonschema"])
async def test_a_missing_package_is_explained(package: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; from aip_cluster.device.__main__ import main; "
        "sys.exit(main(['start', '--server', 'ws://127.0.0.1:9', '--id', 'x']))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
    )
    error = await ended(process)
    assert process.returncode == 2
    assert error.endswith("is missing: pip install 'aip-cluster[device]'\n")
    assert error.count("\n") == 1


async def test_a_connection_cut_while_executing_costs_neither_the_work_nor_the_answer(
    server: ScriptedServer, workdir: Path
) -> None:
    command = "echo run >> runs; until [ -e go ]; do sleep 0.01; done; echo done"
    order = {"session_id": "s1", "response_id": "r1", "actions": actions(("execute_command", {"command": command}))}
    async with agent(server.url, workdir):
        peer = await server.registered()
        await peer.send("command", **order)
        await until((workdir / "runs").exists, "the command has left its mark")
        await peer.abort()
        peer = await server.registered()
        # Handed over again, because the node cannot know: it must not run again.
        await peer.send("command", **order)
        (workdir / "go").touch()
        answer = await peer.receive("command_results")
        assert (answer["prev_response_id"], answer["action_results"][0]["result"]["stdout"]) == ("r1", "done\n")
        await peer.send("command", session_id="s1", response_id="r2", actions=[])
        assert (await peer.receive("command_results"))["prev_response_id"] == "r2"
        await peer.send("command", **order)
        assert (await peer.receive("command_results"))["request_id"] == answer["request_id"]
    assert (workdir / "runs").read_text() == "run\n"


async def test_an_agent_that_was_stopped_for_a_while_finishes_what_it_began(
    server: ScriptedServer, workdir: Path
) -> None:
    command = "touch begun; until [ -e go ]; do sleep 0.01; done; echo done"
    async with agent(server.url, workdir) as process:
        peer = await server.registered()
        await peer.send(
            "command", session_id="s", response_id="r", actions=actions(("execute_command", {"command": command}))
        )
        await until((workdir / "begun").exists, "the command has left its mark")
        process.send_signal(signal.SIGSTOP)
        (workdir / "go").touch()
        await asyncio.sleep(3)
        process.send_signal(signal.SIGCONT)
        answer = await peer.receive("command_results")
        assert answer["action_results"][0]["result"]["stdout"] == "done\n"


async def test_a_large_answer_arrives_and_one_past_the_limit_fails_clearly(
    server: ScriptedServer, workdir: Path
) -> None:
    config = workdir.parent / "client_config.yaml"
    config.write_text("device: {max_answer_bytes: 1000000, output_limit_bytes: 2000000}\n")

    async def output(peer: Any, size: int) -> dict[str, Any]:
        command = f"head -c {size} /dev/zero | tr '\\0' x"
        called = actions(("execute_command", {"command": command}), ("list_files", {}))
        await peer.send("command", session_id="s", response_id=f"r{size}", actions=called)
        answer: dict[str, Any] = await peer.receive("command_results")
        return answer

    async with agent(server.url, workdir, config=config):
        peer = await server.registered()
        fits = await output(peer, 900_000)
        assert len(fits["action_results"][0]["result"]["stdout"]) == 900_000
        too_large = await output(peer, 1_100_000)
        assert too_large["action_results"][0]["error"] == (
            "the result cannot be sent: the answer would be larger than 1000000 bytes"
        )


async def test_configured_servers_serve_their_agent_survive_a_crash_and_end_with_the_device(
    server: ScriptedServer, workdir: Path
) -> None:
    script = Path(__file__).parent / "stdio_server.py"
    config = workdir.parent / "client_config.yaml"
    config.write_text(
        f"""
        device: {{tags: [lab]}}
        mcp_servers:
          script:
            {{type: stdio, command: {sys.executable}, args: ["{script}"], env: {{A: "${{GIVEN}}"}}, agent: Tester}}
          gone: {{type: http, url: "http://127.0.0.1:9/mcp"}}
        """
    )
    async with agent(server.url, workdir, config=config, GIVEN="s3cret") as process:
        peer = await server.peer()
        metadata = (await peer.accept())["metadata"]
        assert metadata["system_info"]["tags"] == ["lab"]
        if "script" not in metadata["mcp_servers"]:
            metadata = (await peer.receive("device_info_response"))["metadata"]
        assert metadata["mcp_servers"] == ["local", "script"]
        assert [entry["connected"] for entry in metadata["mcp_status"]] == [True, True, False]

        async def ask(tool: str, agent_name: str = "Tester", /, **parameters: Any) -> dict[str, Any]:
            called = actions((tool, parameters))
            await peer.send("command", session_id="s", response_id=new_id(), agent_name=agent_name, actions=called)
            result: dict[str, Any] = (await peer.receive("command_results"))["action_results"][0]
            return result

        first = (await ask("pid"))["result"]
        assert (await ask("variable", name="A"))["result"] == "s3cret"
        assert "there is no tool 'pid' for agent 'Other'" in (await ask("pid", "Other"))["error"]
        crashed = await ask("crash")
        assert (crashed["status"], crashed["namespace"]) == ("failure", "script")
        # That it went is told, which may be before the answer; and that it is back.
        servers = None
        while servers != ["local", "script"]:
            servers = (await peer.receive("device_info_response"))["metadata"]["mcp_servers"]
        second = (await ask("pid"))["result"]
        assert second != first

        process.send_signal(signal.SIGTERM)
        log = await ended(process)
        assert process.returncode == 0, log
        assert not psutil.pid_exists(second)
        assert "s3cret" not in log
        assert "Traceback" not in log


def test_a_server_that_can_never_be_one_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "_configure_logging", lambda level: None)
    config = tmp_path / "client_config.yaml"
    config.write_text("mcp_servers: {x: {type: python, target: 'no_such_module:x'}}")
    argv = ["start", "--server", "ws://127.0.0.1:9", "--id", "x", "--config", str(config), "--workdir", str(tmp_path)]
    assert command_line.main(argv) == 2
    assert "mcp_servers.x.target: 'no_such_module' cannot be imported" in capsys.readouterr().err
