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

from clients.device import __main__ as command_line
from clients.device.profile import collect
from tests.unit.clients.scripted import PATIENCE_S, ScriptedServer

ROOT = Path(command_line.__file__).parents[2]


@asynccontextmanager
async def agent(url: str, workdir: Path, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "clients.device", "start"),
        *("--server", url, "--id", "lab-1", "--workdir", str(workdir)),
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
        assert metadata["mcp_servers"][0]["namespace"] == "local"
        assert "execute_command" in metadata["tools"]

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
        assert len(listed) == 5

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


@pytest.mark.parametrize("package", ["mcp", "psutil", "yaml", "jsonschema"])
async def test_a_missing_package_is_explained(package: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; from clients.device.__main__ import main; "
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


def test_the_profile_has_what_ufo_reads_and_says_nothing_untrue(workdir: Path) -> None:
    profile = collect("lab-1", platform="linux", workdir=workdir, mcp_servers=[{"namespace": "local"}], tools=["a"])
    info = profile["system_info"]
    assert set(info) == {
        "device_id",
        "platform",
        "os_version",
        "cpu_count",
        "memory_total_gb",
        "hostname",
        "ip_address",
        "supported_features",
        "platform_type",
        "schema_version",
        "custom_metadata",
    }
    assert info["memory_total_gb"] > 0
    assert info["cpu_count"] >= 1
    assert info["platform_type"] == "computer"
    assert {"cpu", "memory", "disk", "network", "os", "registration_time"} <= set(profile)
    assert (profile["tools"], profile["mcp_servers"]) == (["a"], [{"namespace": "local"}])


def test_features_follow_what_is_there(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)

    def features() -> list[str]:
        profile = collect("x", platform="linux", workdir=workdir, mcp_servers=[], tools=[])
        listed: list[str] = profile["system_info"]["supported_features"]
        return listed

    assert "gui" not in features()
    monkeypatch.setenv("DISPLAY", ":0")
    assert "gui" in features()
