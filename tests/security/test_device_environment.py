"""A command on a device of ours looks for the agent's key and the host's: the agent is a process of its own."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aip_cluster.device import __main__ as command_line
from aip_cluster.device.config import ConfigError, load
from tests.unit.aip_cluster.scripted import PATIENCE_S, ScriptedServer

ROOT = Path(command_line.__file__).parents[2]
KEY, CLOUD_KEY = "k3y-of-the-agent", "k3y-of-the-cloud"
LOOKS = (
    "env",
    "tr '\\0' '\\n' < /proc/$PPID/environ",
    "tr '\\0' '\\n' < /proc/$PPID/cmdline",
    "for t in /proc/$PPID/task/*; do cat $t/environ $t/cmdline; done",
    "for f in /proc/$PPID/fd/*; do timeout 1 cat $f < /dev/null; done",
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


async def outputs(
    server: ScriptedServer, workdir: Path, *commands: str, flags: tuple[str, ...] = (), launcher: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """What these commands give on a device that was started with the two keys in its environment."""
    process = await asyncio.create_subprocess_exec(
        *(*launcher, sys.executable, "-m", "aip_cluster.device", "start", "--server", server.url, "--id", "lab-1"),
        *("--workdir", str(workdir), *flags),
        cwd=ROOT,
        env={**os.environ, "AIP_API_KEY": KEY, "AWS_SECRET_ACCESS_KEY": CLOUD_KEY, "LANG": "C.UTF-8", "LC_TIME": "C"},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        peer = await server.peer()
        assert peer.header("X-API-Key") == KEY
        await peer.accept()
        actions = [
            {"tool_name": "execute_command", "parameters": {"command": command}, "call_id": f"c{index}"}
            for index, command in enumerate(commands)
        ]
        await peer.send("command", session_id="s1", response_id="r1", actions=actions)
        answer = await peer.receive("command_results")
        return [result["result"] for result in answer["action_results"]]
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            await process.communicate()


@pytest.mark.parametrize("flags", [(), ("--token", KEY), (f"--token={KEY}",)], ids=["variable", "flag", "joined"])
async def test_a_command_finds_no_key_in_any_environment_nor_in_a_command_line(
    server: ScriptedServer, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    found = json.dumps(await outputs(server, tmp_path, *LOOKS, flags=flags))
    assert KEY not in found
    assert CLOUD_KEY not in found
    assert "LANG=C.UTF-8" in found
    assert "LC_TIME=C" in found


async def test_a_command_of_an_unprivileged_agent_cannot_read_its_memory(
    server: ScriptedServer, tmp_path: Path
) -> None:
    # Root without its capabilities is checked by the kernel as any other user is.
    launcher = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    if launcher and shutil.which(launcher[0]) is None:
        pytest.skip("setpriv is not installed, and root may read any memory")
    *denied, status = await outputs(
        server,
        tmp_path,
        *("head -c 1 /proc/$PPID/environ", "head -c 1 /proc/$PPID/maps", "head -c 1 /proc/$PPID/mem"),
        "grep CapEff /proc/$PPID/status",
        launcher=launcher,
    )
    assert status["stdout"].split() == ["CapEff:", "0" * 16]
    for look in denied:
        assert look["exit_code"] != 0, look
        assert "Permission denied" in look["stderr"]


async def test_a_command_inherits_the_variables_that_the_operator_names(server: ScriptedServer, tmp_path: Path) -> None:
    config = tmp_path / "device.yaml"
    config.write_text("device: {command_env: [AWS_SECRET_ACCESS_KEY]}")
    (seen,) = await outputs(server, tmp_path, "env", flags=("--config", str(config)))
    assert f"AWS_SECRET_ACCESS_KEY={CLOUD_KEY}" in seen["stdout"]
    assert KEY not in seen["stdout"]


@pytest.mark.parametrize("name", ["AIP_API_KEY", "AIP_DEVICE_TOKEN"])
def test_no_setting_gives_the_agents_key_to_commands(tmp_path: Path, name: str) -> None:
    config = tmp_path / "device.yaml"
    config.write_text(f"device: {{command_env: [{name}]}}")
    with pytest.raises(ConfigError, match=rf"device\.command_env.*{name} is the agent's own key"):
        load({"config": str(config), "server": "ws://127.0.0.1:9", "device_id": "lab-1"}, {})
