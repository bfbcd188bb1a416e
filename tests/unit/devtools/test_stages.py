"""Stages of a check: beside each other, read one by one, and none of their processes outlives them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools.stages import Result, Stage, run_stages

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 30.0
# What every command of these tests can use: `wait` for a file of the others, `touch` one.
PRELUDE = """
import os, pathlib, signal, subprocess, sys, time
def touch(name): pathlib.Path(name).write_text(str(os.getpid()))
def wait(name):
    end = time.monotonic() + 30
    while not pathlib.Path(name).exists():
        assert time.monotonic() < end, name
        time.sleep(0.01)
"""


def stage(name: str, code: str, accepted: tuple[int, ...] = (0,)) -> Stage:
    return Stage(name, [sys.executable, "-u", "-c", PRELUDE + code], accepted)


class Runs:
    """Runs stages in a folder, and keeps what was shown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown = ""

    def __call__(self, *groups: list[Stage], at_once: int = 2) -> list[Result]:
        return run_stages(groups, at_once=at_once, env=os.environ, cwd=self.folder, show=self._show)

    def pid(self, name: str) -> int:
        return int((self.folder / name).read_text())

    def _show(self, text: str) -> None:
        self.shown += text


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def runs_still(pid: int) -> bool:
    """Whether a process is there; one that has ended and was not waited for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


def test_stages_of_a_group_run_beside_each_other_and_are_read_one_by_one(runs: Runs) -> None:
    # Each waits for the other: one after the other they could not end.
    first = stage("first", "print('1a'); touch('a'); wait('b'); print('1b')")
    second = stage("second", "print('2a'); wait('a'); touch('b'); print('2b')")
    results = runs([first, second])
    assert [(r.stage.name, r.passed) for r in results] == [("first", True), ("second", True)]
    assert runs.shown == "\n== first\n1a\n1b\n\n== second\n2a\n2b\n"


def test_no_more_run_at_once_than_allowed_and_groups_follow_each_other(runs: Runs) -> None:
    # Long enough beside each other to be counted, if there were more.
    code = "; time.sleep(1); n = len(list(pathlib.Path().glob('on-*'))); os.unlink(NAME); sys.exit(n > 2)"
    stages = [stage(name, f"NAME = 'on-{name}'; touch(NAME)" + code) for name in "abcd"]
    assert all(r.passed for r in runs(stages))
    results = runs([stage("e", "touch('e-ended')")], [stage("f", "assert os.path.exists('e-ended')")])
    assert all(r.passed for r in results)


def test_an_exit_code_that_is_accepted_passes(runs: Runs) -> None:
    assert runs([stage("nothing to do", "sys.exit(5)", (0, 5))])[0].passed
    assert not runs([stage("nothing to do", "sys.exit(5)")])[0].passed


def test_a_stage_that_only_warns_stops_nothing(runs: Runs) -> None:
    warns = Stage("warns", [sys.executable, "-c", "raise SystemExit(3)"], only_warns=True)
    results = runs([warns], [stage("next", "print('goes on')")])
    assert [(r.stage.name, r.passed) for r in results] == [("warns", True), ("next", True)]
    assert "WARNING (" in str(results[0])
    assert "passed" in str(results[1])


def test_the_first_failure_stops_those_beside_it_with_time_to_clean_up_and_what_would_follow(runs: Runs) -> None:
    slow = stage(
        "slow", "try: touch('began'); time.sleep(60)\nexcept KeyboardInterrupt: print('cleaned up'); sys.exit(2)"
    )
    fails = stage("fails", "wait('began'); print('why'); sys.exit(3)")
    results = runs([slow, fails, stage("third", "touch('third')")], [stage("fourth", "touch('fourth')")])
    assert [(r.stage.name, r.code, r.passed) for r in results] == [("slow", None, False), ("fails", 3, False)]
    assert "== slow\ncleaned up\n" in runs.shown
    assert runs.shown.endswith("== fails\nwhy\n")
    assert not (runs.folder / "third").exists()
    assert not (runs.folder / "fourth").exists()
    assert "FAILED" in str(results[1])
    assert "stopped" in str(results[0])


def test_what_a_stage_left_running_ends_with_it(runs: Runs) -> None:
    left = "child = subprocess.Popen(['sleep', '600']); pathlib.Path('left').write_text(str(child.pid)); "
    assert runs([stage("leaves", left + "print('done')")])[0].passed
    assert not runs_still(runs.pid("left"))


# Ctrl-C, a time limit, and what nothing can be done about.
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_runner_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    runner = (
        "import os, pathlib\n"
        "from devtools.outcome import end_cleanly_on_signals\n"
        "from devtools.stages import run_stages\n"
        "from tests.unit.devtools.test_stages import stage\n"
        "end_cleanly_on_signals()\n"
        "code = \"child = subprocess.Popen(['sleep', '600']); pathlib.Path('grandchild').write_text(str(child.pid))\\n"
        "try: touch('stage'); child.wait()\\nexcept KeyboardInterrupt: child.kill(); touch('cleaned')\"\n"
        "run_stages([[stage('long', code)]], at_once=1, env=os.environ, cwd=pathlib.Path.cwd())\n"
    )
    # What a killed runner leaves is in the test's own folder.
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", runner], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL) as gate:
        try:
            started = tmp_path / "stage"
            wait_until(lambda: started.exists() and started.read_text(), "the stage runs")
            stage_pid = int(started.read_text())
            grandchild = int((tmp_path / "grandchild").read_text())
            gate.send_signal(number)
            code = gate.wait(PATIENCE_S)
        finally:
            gate.kill()
    wait_until(lambda: not runs_still(stage_pid) and not runs_still(grandchild), "both have ended")
    assert (tmp_path / "cleaned").exists()
    assert code == (-9 if number == signal.SIGKILL else 128 + number)
