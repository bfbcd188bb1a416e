"""The local tools, called as a command calls them: through the toolbox and MCP, with real files and processes."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from aip_cluster.device import shell
from aip_cluster.device.shell import Completed, run_command
from aip_cluster.device.toolbox import ToolFailed
from aip_cluster.device.workspace import MAX_LISTED
from aip_cluster.protocol import Command
from tests.support.wait import until
from tests.unit.aip_cluster.toolboxes import local_toolbox

LIMIT = 4096


async def call(workdir: Path, tool: str, *, confined: bool = True, **parameters: Any) -> Any:
    async with local_toolbox(workdir, confined=confined) as tools:
        return (await tools.call(Command(tool_name=tool, parameters=parameters))).value


def dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def test_a_command_runs_in_the_working_folder_and_reports_all_it_did(workdir: Path) -> None:
    result = await call(workdir, "execute_command", command="pwd; echo oops >&2")
    assert result["exit_code"] == 0
    assert result["stdout"] == f"{workdir}\n"
    assert result["stderr"] == "oops\n"
    assert result["truncated"] is False
    assert result["duration_s"] >= 0


async def test_a_nonzero_exit_code_is_a_result_and_not_a_failure(workdir: Path) -> None:
    assert (await call(workdir, "execute_command", command="exit 3"))["exit_code"] == 3


async def test_a_command_reads_nothing_from_the_agents_standard_input(workdir: Path) -> None:
    assert (await call(workdir, "execute_command", command="cat"))["stdout"] == ""


async def test_a_command_does_not_see_the_agents_key(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_API_KEY", "s3cret")
    monkeypatch.setenv("AIP_DEVICE_TOKEN", "s3cret")
    assert "s3cret" not in (await call(workdir, "execute_command", command="env"))["stdout"]


async def test_a_timeout_is_a_failure_and_kills_the_whole_process_group(workdir: Path) -> None:
    command = "sleep 300 & echo $! > child; echo started; wait"
    with pytest.raises(ToolFailed, match=r"ran longer than 3 s and was killed; the last of its output: started"):
        await call(workdir, "execute_command", command=command, timeout=3)
    await until(lambda: dead(int((workdir / "child").read_text())), "the child has ended")


async def test_jobs_left_in_the_background_end_with_the_command(workdir: Path) -> None:
    result = await call(workdir, "execute_command", command="sleep 300 & echo $!")
    assert result["exit_code"] == 0
    await until(lambda: dead(int(result["stdout"])), "the child has ended")


async def test_a_process_that_left_the_group_does_not_hold_the_answer(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "DRAIN_S", 0.05)
    command = "setsid sh -c 'echo $$ > pid; exec sleep 300' & until [ -s pid ]; do sleep 0.01; done; echo done"
    try:
        assert (await call(workdir, "execute_command", command=command))["stdout"] == "done\n"
        pid = int(text_of(workdir / "pid"))
        assert not dead(pid)
    finally:
        os.kill(int(text_of(workdir / "pid")), signal.SIGKILL)


async def test_cancelling_a_command_kills_the_whole_process_group(workdir: Path) -> None:
    running = asyncio.create_task(
        call(workdir, "execute_command", command="sleep 300 & echo $! > child; wait", timeout=300)
    )
    await until(lambda: text_of(workdir / "child").endswith("\n"), "the child has written its pid")
    child = int(text_of(workdir / "child"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: dead(child), "the child has ended")


async def test_cancelling_while_the_process_is_being_started_leaves_none_behind(workdir: Path) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    for steps in range(4):
        running: asyncio.Task[Completed] = asyncio.create_task(
            run_command("sleep 300 & wait", cwd=workdir, timeout_s=300, output_limit_bytes=LIMIT)
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    left = {child.pid for child in psutil.Process().children(recursive=True)} - before
    await until(lambda: all(dead(pid) for pid in left), "the child has ended")


async def test_a_flood_of_output_is_cut_and_the_command_still_ends(workdir: Path) -> None:
    result = await call(workdir, "execute_command", command="head -c 20000000 /dev/zero | tr '\\0' x")
    assert result["exit_code"] == 0
    assert result["truncated"] is True
    assert result["stdout"] == "x" * LIMIT


async def test_output_that_is_not_utf8_does_not_break_the_answer(workdir: Path) -> None:
    assert (await call(workdir, "execute_command", command="printf '\\377ok'"))["stdout"] == "\ufffdok"


async def test_a_folder_to_run_in_must_exist_and_be_inside(workdir: Path) -> None:
    (workdir / "sub").mkdir()
    assert (await call(workdir, "execute_command", command="pwd", cwd="sub"))["stdout"] == f"{workdir}/sub\n"
    with pytest.raises(ToolFailed, match="cwd: 'none' is not a folder"):
        await call(workdir, "execute_command", command="pwd", cwd="none")
    with pytest.raises(ToolFailed, match=r"cwd: '\.\.' is outside the working folder"):
        await call(workdir, "execute_command", command="pwd", cwd="..")


async def test_a_file_can_be_written_appended_to_and_read_in_parts(workdir: Path) -> None:
    await call(workdir, "write_file", path="notes/today.txt", content="first\n")
    await call(workdir, "write_file", path="notes/today.txt", content="second\n", append=True)
    whole = await call(workdir, "read_file", path="notes/today.txt")
    assert (whole["content"], whole["size_bytes"], whole["truncated"]) == ("first\nsecond\n", 13, False)
    part = await call(workdir, "read_file", path="notes/today.txt", offset=6, max_bytes=3)
    assert (part["content"], part["bytes_read"], part["truncated"]) == ("sec", 3, True)


async def test_an_absolute_path_inside_the_working_folder_is_as_good_as_a_relative_one(workdir: Path) -> None:
    (workdir / "a").write_text("x")
    assert (await call(workdir, "read_file", path=str(workdir / "a")))["content"] == "x"


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "link", "folder/secret", "sub/../../secret"])
async def test_confined_tools_do_not_leave_the_working_folder(workdir: Path, path: str) -> None:
    secret = workdir.parent / "secret"
    secret.write_text("secret")
    (workdir / "link").symlink_to(secret)
    (workdir / "folder").symlink_to(workdir.parent)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("read_file", {}),
        ("write_file", {"content": "stolen"}),
        ("list_files", {}),
    ]
    for tool, parameters in calls:
        with pytest.raises(ToolFailed, match="is outside the working folder, and this device is confined to it"):
            await call(workdir, tool, path=path, **parameters)
    assert secret.read_text() == "secret"


async def test_a_link_that_stays_inside_is_followed(workdir: Path) -> None:
    (workdir / "a").write_text("x")
    (workdir / "link").symlink_to(workdir / "a")
    assert (await call(workdir, "read_file", path="link"))["content"] == "x"


async def test_unconfined_tools_may_leave_the_working_folder(workdir: Path) -> None:
    (workdir.parent / "other").write_text("x")
    assert (await call(workdir, "read_file", confined=False, path="../other"))["content"] == "x"


async def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_on(workdir: Path) -> None:
    os.mkfifo(workdir / "pipe")
    with pytest.raises(ToolFailed, match="'pipe' is not a regular file"):
        await call(workdir, "read_file", path="pipe")
    with pytest.raises(ToolFailed, match="'pipe'"):
        await call(workdir, "write_file", path="pipe", content="x")


@pytest.mark.parametrize(
    ("path", "reason"), [("none", "No such file or directory"), ("sub", "not a regular file"), ("loop", "loop")]
)
async def test_a_file_that_cannot_be_read_fails_with_a_reason(workdir: Path, path: str, reason: str) -> None:
    (workdir / "sub").mkdir()
    (workdir / "loop").symlink_to(workdir / "loop")
    with pytest.raises(ToolFailed, match=reason):
        await call(workdir, "read_file", path=path)


async def test_files_are_listed_with_types_and_sizes_and_links_are_not_followed(workdir: Path) -> None:
    (workdir / "sub").mkdir()
    (workdir / "sub" / "deep").write_text("12345")
    (workdir / "out").symlink_to(workdir.parent)
    listed = await call(workdir, "list_files")
    assert listed == {
        "entries": [{"path": "out", "type": "symlink"}, {"path": "sub", "type": "directory"}],
        "truncated": False,
    }
    deep = await call(workdir, "list_files", recursive=True)
    assert {"path": "sub/deep", "type": "file", "size_bytes": 5} in deep["entries"]
    assert len(deep["entries"]) == 3


async def test_a_long_list_of_files_is_cut(workdir: Path) -> None:
    for number in range(MAX_LISTED + 1):
        (workdir / f"{number}").touch()
    listed = await call(workdir, "list_files")
    assert (len(listed["entries"]), listed["truncated"]) == (MAX_LISTED, True)


async def test_the_system_describes_itself(workdir: Path) -> None:
    described = await call(workdir, "get_system_info")
    assert described == {"platform": "linux"}
