"""The command line: exit codes, what is printed, what is written, and what a signal does."""

import asyncio
import io
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aip_cluster.constellation import cli
from aip_cluster.constellation.__main__ import main
from aip_cluster.constellation.plan import Needs, Plan, Task
from aip_cluster.constellation.progress import Lines, Table, printable, progress_for
from aip_cluster.constellation.records import Attempt, Ending, Outcome, TaskRecord, TaskState
from tests.unit.aip_cluster.constellation.cluster import Cluster, Session

PATIENCE_S = 30.0
PLAN = {
    "name": "two",
    "vars": {"word": "hello"},
    "tasks": [
        {"id": "a", "request": "say {{ vars.word }}", "device": "d0"},
        {"id": "b", "request": "repeat {{ tasks.a.result }}", "needs": {}, "depends_on": ["a"]},
    ],
}


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.delenv("AIP_API_KEY", raising=False)
    async with Cluster() as cluster:
        cluster.join("d0")
        yield cluster


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    return path


async def command(*argv: Any) -> int:
    """The command in a thread: it brings its own event loop, the cluster has this one."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.to_thread(main, [str(word) for word in argv])


async def test_a_run_that_completes_exits_0_and_writes_its_report_and_its_picture(
    cluster: Cluster, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "out.json", tmp_path / "out.mmd"
    argv = ("run", plan, "--server", cluster.url, "--set", "word=bye", "--json", out, "--mermaid", picture)
    assert await command(*argv) == 0
    assert json.loads(out.read_text())["tasks"][1]["result"] == "repeat say bye"
    assert picture.read_text().startswith("flowchart TD\n")
    said = capsys.readouterr()
    assert said.out == ""
    assert "a: started on d0" in said.err
    assert "b: completed after" in said.err
    assert "two completed after" in said.err
    assert "critical path: a → b" in said.err


async def test_the_report_may_go_to_standard_output(
    cluster: Cluster, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await command("run", plan, "--server", cluster.url, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "completed"


async def test_a_run_with_a_failed_task_exits_1_and_says_why(
    cluster: Cluster, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(session: Session) -> None:
        session.end("failed", error="no \x1b[31mdisk")

    cluster.work = work
    assert await command("run", plan, "--server", cluster.url) == 1
    said = capsys.readouterr().err
    assert "a failed: no  [31mdisk" in said
    assert "b skipped: it depends on 'a', which failed" in said
    assert "\x1b" not in said


async def test_what_is_wrong_exits_2_with_a_line_for_each_and_sends_nothing(
    cluster: Cluster, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ("--server", cluster.url)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(PLAN | {"colour": 1, "max_parallel": 0}))
    away = tmp_path / "away.yaml"
    away.write_text(yaml.safe_dump({"name": "p", "tasks": [{"id": "a", "request": "x", "device": "gone"}]}))
    monkeypatch.setenv("EMPTY", "")
    for argv, expected in (
        (("check", wrong), "colour: is not a field"),
        (("check", wrong), "max_parallel: "),
        (("run", away, *server), "task 'a', device: 'gone' is not connected; connected: d0"),
        (("check", away, *server), "'gone' is not connected"),
        (("run", plan, "--server", "ws://127.0.0.1:9"), "GET /api/clients"),
        (("run", plan, "--server", "nowhere"), "--server or --name: must look like"),
        (("run", plan, *server, "--name", "a{b"), "--server or --name: name: must be"),
        (("run", plan, *server, "--set", "word"), "--set word: must look like KEY=VALUE"),
        (("run", plan, *server, "--set", "other=1"), "vars.other: is set"),
        (("run", plan, *server, "--api-key-env", "EMPTY"), "the variable EMPTY is not set"),
        (("run", plan, *server, "--json", tmp_path / "none" / "x.json"), "is not a folder"),
    ):
        assert await command(*argv) == 2
        assert expected in capsys.readouterr().err
    assert cluster.sessions == {}
    for incomplete in ([], ["run", plan], ["walk"]):
        with pytest.raises(SystemExit) as caught:
            await command(*incomplete)
        assert caught.value.code == 2


async def test_check_looks_at_the_devices_only_when_told_where(
    cluster: Cluster, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await command("check", plan) == 0
    assert "two: 2 tasks, 1 of them can start at once: nothing wrong" in capsys.readouterr().out
    assert await command("check", plan, "--server", cluster.url) == 0
    assert cluster.sessions == {}


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_API_KEY", "one")
    monkeypatch.setenv("OTHER", "two")
    assert cli._api_key(None) == "one"
    assert cli._api_key("OTHER") == "two"
    monkeypatch.delenv("AIP_API_KEY")
    assert cli._api_key(None) is None


@pytest.mark.parametrize("times", [1, 2])
async def test_an_interrupt_cancels_the_run_on_the_devices_and_exits_130(
    cluster: Cluster, plan: Path, times: int
) -> None:
    async def work(session: Session) -> None:
        if times == 2:
            cluster.is_silent = True
        await session.over.wait()

    cluster.work = work
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aip_cluster.constellation", "run", str(plan), "--server", cluster.url),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            await cluster.arrived.get()
            process.send_signal(signal.SIGINT)
            said = await process.stderr.readuntil(b"cancelling the run; once more to give up")
            if times == 2:
                process.send_signal(signal.SIGINT)
            rest = await process.stderr.read()
            assert await process.wait() == 130
    finally:
        if process.returncode is None:
            process.kill()
    if times == 1:
        assert [session.state for session in cluster.sessions.values()] == ["cancelled"]
        assert b"two cancelled after" in rest
    else:
        assert b"may be running still" in rest
    assert b"Traceback" not in said + rest


# -- progress --------------------------------------------------------------------------------------------------------


def record(state: TaskState, *endings: Ending, error: str | None = None) -> TaskRecord:
    attempts = [
        Attempt(n + 1, f"d{n}", float(n), n + 1.0, Outcome(ending, error="gone")) for n, ending in enumerate(endings)
    ]
    if state is TaskState.RUNNING:
        attempts.append(Attempt(len(attempts) + 1, "d9", 9.0))
    return TaskRecord(Task(id="a", request="x", needs=Needs()), state, attempts, error=error)


def test_lines_tell_of_starts_retries_and_ends() -> None:
    out = io.StringIO()
    lines = Lines(out, clock=lambda: 5.0)
    with lines.shown():
        for each in (
            record(TaskState.WAITING),
            record(TaskState.READY),
            record(TaskState.RUNNING),
            record(TaskState.READY, Ending.DEVICE_LOST),
            record(TaskState.RUNNING, Ending.DEVICE_LOST),
            record(TaskState.CANCELLED, Ending.CANCELLED, error="stop\nnow"),
        ):
            lines(each)
    assert out.getvalue().splitlines() == [
        "[    0.0 s] a: started on d9",
        "[    0.0 s] a: device_lost on d0, to be tried again: gone",
        "[    0.0 s] a: started on d9 (attempt 2)",
        "[    0.0 s] a: cancelled: stop now",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_table_shows_every_task_and_no_markup_or_control_of_others() -> None:
    plan = Plan(name="p", tasks=[Task(id="a", request="x", needs=Needs())])
    out = Terminal()
    progress = progress_for(plan, out)
    assert isinstance(progress, Table)
    with progress.shown():
        progress(record(TaskState.FAILED, Ending.FAILED, error="[bold]no\x1b]0;x\x07"))
    shown = out.getvalue()
    assert "p: 1 of 1" in shown
    assert "[bold]no" in shown
    assert "\x1b]0;" not in shown
    assert isinstance(progress_for(plan, io.StringIO()), Lines)


def test_without_rich_a_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert isinstance(progress_for(Plan(name="p", tasks=[]), Terminal()), Lines)


def test_what_is_printed_is_bounded_and_plain() -> None:
    assert printable("a\x1b[1m\nb") == "a [1m b"
    assert len(printable("x" * 1000)) == 200
