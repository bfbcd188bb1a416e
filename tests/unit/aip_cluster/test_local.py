"""One process with a node and a device: found, dispatched to, followed and reported."""

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from aip_cluster.device import __main__ as command_line
from aip_cluster.device import local
from aip_cluster.device.config import ConfigError
from aip_cluster.device.local import read_commands, run_local
from devtools.topologies import free_port
from tests.unit.aip_cluster.http_servers import serving


class Cluster:
    """The least that a node must be: it hands the commands of a dispatch to the device, and keeps the answer."""

    def __init__(self) -> None:
        self.socket: WebSocket | None = None
        self.session: dict[str, Any] = {}
        self.dispatched: dict[str, Any] = {}

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[str]:
        app = Starlette(
            routes=[
                WebSocketRoute("/ws", self._device),
                Route("/api/dispatch", self._dispatch, methods=["POST"]),
                Route("/api/sessions/s1", self._session),
            ]
        )
        async with serving(app, free_port(), ws="websockets-sansio") as address:
            yield f"ws://{address}/ws"

    async def _device(self, socket: WebSocket) -> None:
        await socket.accept()
        self.socket = socket
        try:
            while True:
                frame = json.loads(await socket.receive_text())
                if frame["type"] == "register":
                    await socket.send_json({"type": "heartbeat", "status": "ok"})
                if frame["type"] == "command_results":
                    results = frame["action_results"]
                    failed = [result for result in results if result["status"] != "success"]
                    self.session |= {"state": "failed" if failed else "completed", "result": results}
                    self.session["error"] = failed[0]["error"] if failed else None
                    self.session["steps"].append({"type": "ended", "at_ms": 2})
        except WebSocketDisconnect:
            pass

    async def _dispatch(self, request: Request) -> JSONResponse:
        self.dispatched = await request.json()
        if "commands" not in self.dispatched:
            return JSONResponse({"detail": "no planner can run the task"}, 422)
        assert self.socket is not None
        self.session = {"state": "running", "steps": [{"type": "created", "at_ms": 1, "planner": "direct"}]}
        await self.socket.send_json(
            {"type": "command", "session_id": "s1", "response_id": "r1", "actions": self.dispatched["commands"]}
        )
        return JSONResponse({"session_id": "s1"})

    async def _session(self, request: Request) -> JSONResponse:
        return JSONResponse(self.session)


async def ran(cluster: Cluster, workdir: Path, **flags: Any) -> tuple[int, str]:
    out = io.StringIO()
    given = {"request": "do it", "workdir": str(workdir), **flags}
    return await run_local(given, {}, cluster=cluster, out=out), out.getvalue()


async def test_a_task_runs_its_steps_are_told_and_its_result_is_printed(workdir: Path) -> None:
    cluster = Cluster()
    commands = '[{"tool_name": "execute_command", "parameters": {"command": "echo hello > said; cat said"}}]'
    code, told = await ran(cluster, workdir, commands=commands, planner="direct")
    assert code == 0, told
    lines = told.splitlines()
    assert lines[:4] == ["session s1", '  created {"planner": "direct"}', "  ended", "completed"]
    assert json.loads("\n".join(lines[4:]))[0]["result"]["stdout"] == "hello\n"
    assert (workdir / "said").read_text() == "hello\n"
    assert cluster.dispatched["client_id"] == "local"
    assert (cluster.dispatched["request"], cluster.dispatched["planner"]) == ("do it", "direct")


async def test_a_task_that_fails_ends_with_1(workdir: Path, tmp_path: Path) -> None:
    file = tmp_path / "commands.json"
    file.write_text('{"tool_name": "read_file", "parameters": {"path": "none"}}')
    code, told = await ran(Cluster(), workdir, commands=f"@{file}")
    assert code == 1
    assert "failed: 'none': No such file" in told


async def test_a_task_that_no_planner_takes_ends_with_2(workdir: Path) -> None:
    code, told = await ran(Cluster(), workdir)
    assert (code, told) == (2, "refused (422): no planner can run the task\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[", "--commands: is not JSON"),
        ("5", "--commands: must be a list of objects"),
        ('[{"tool": "x"}]', "--commands: must be a list of objects"),
        ("@/no/such/file", "--commands: /no/such/file: No such file"),
    ],
)
def test_commands_that_are_none_are_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_commands(given)


def test_without_a_node_the_command_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "_configure_logging", lambda level: None)
    monkeypatch.setattr(local, "entry_points", lambda group: ())
    assert command_line.main(["local", "--request", "x"]) == 2
    assert "there is no node installed here: pip install 'aip-cluster-server[embedded]'" in capsys.readouterr().err


def test_the_node_is_found_by_its_entry_point(
    monkeypatch: pytest.MonkeyPatch, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class EntryPoint:
        @staticmethod
        def load() -> Cluster:
            return Cluster()

    monkeypatch.setattr(command_line, "_configure_logging", lambda level: None)
    monkeypatch.setattr(local, "entry_points", lambda group: (EntryPoint(),) if group == "aip_cluster.local" else ())
    commands = '[{"tool_name": "list_files"}]'
    argv = ["local", "--request", "x", "--commands", commands, "--workdir", str(workdir)]
    assert command_line.main(argv) == 0
    assert "completed" in capsys.readouterr().out
