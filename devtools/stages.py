"""Stages of a check: commands that run one after another or beside each other, and read as if one at a time.

What a stage prints goes to a file. The output of the first stage that has not ended is shown as it comes, that of the
others when their turn comes: nothing is interleaved. The first stage that fails ends those beside it. However this
ends, by a signal too, every stage is interrupted, given time to end what it started, and then killed with its process
group; a stage whose runner was killed is interrupted by the kernel.
"""

import codecs
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from devtools.processes import Child, describe_exit, spawn

__all__ = ["Result", "Stage", "run_stages"]

LOOK_EVERY_S = 0.05
# As long as the fixtures of an interrupted test may take to end their nodes.
INTERRUPT_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Stage:
    """A command, and which of its exit codes are a success. With `only_warns` the others stop nothing."""

    name: str
    command: list[str]
    accepted: tuple[int, ...] = (0,)
    only_warns: bool = False


@dataclass(frozen=True)
class Result:
    """What became of a stage. `code` is None where it was ended because another one failed."""

    stage: Stage
    code: int | None
    took_s: float

    @property
    def passed(self) -> bool:
        return self.code in self.stage.accepted or (self.stage.only_warns and self.code is not None)

    def __str__(self) -> str:
        return f"{self._outcome()} in {self.took_s:.1f} s"

    def _outcome(self) -> str:
        if self.code is None:
            return "stopped"
        if self.code in self.stage.accepted:
            return "passed"
        return f"{'WARNING' if self.stage.only_warns else 'FAILED'} ({describe_exit(self.code)})"


def run_stages(
    groups: Sequence[Sequence[Stage]],
    *,
    at_once: int,
    env: Mapping[str, str],
    cwd: Path,
    show: Callable[[str], None] | None = None,
) -> list[Result]:
    """Runs group after group, at most `at_once` stages of a group beside each other; stops at the first failure.

    Returns the results in the order of the stages, without those that were never started. `show` takes the output;
    unless given, it is printed.
    """
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="aip-stages-") as folder:
        for group in groups:
            results += _Group(group, at_once, env, cwd, Path(folder), show or _print).run()
            if not all(result.passed for result in results):
                break
    return results


def _print(text: str) -> None:
    print(text, end="", flush=True)


class _Running:
    """A stage that was started."""

    def __init__(self, stage: Stage, child: Child) -> None:
        self.stage = stage
        self.result: Result | None = None
        self._child = child
        self._began = time.monotonic()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._shown = 0

    def look(self, *, stopped: bool = False) -> None:
        """Sets `result` if it has ended."""
        if os.waitid(os.P_PID, self._child.handle.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            self.kill(stopped=stopped)

    def interrupt(self) -> None:
        """Asks it to end, as Ctrl-C does."""
        self._child.process.signal(signal.SIGINT)

    def kill(self, *, stopped: bool) -> None:
        """Ends it and what is left of its process group, and sets `result`."""
        # Its end has not been collected yet: nobody else can have its process id.
        with suppress(ProcessLookupError):
            os.killpg(self._child.handle.pid, signal.SIGKILL)
        code = self._child.handle.wait()
        self.result = Result(self.stage, None if stopped else code, time.monotonic() - self._began)

    def news(self) -> str:
        """What it has printed since the last call."""
        with self._child.log.open("rb") as log:
            log.seek(self._shown)
            data = log.read()
        self._shown += len(data)
        return self._decoder.decode(data, final=self.result is not None)


class _Group:
    """Stages that may run beside each other."""

    def __init__(
        self,
        stages: Sequence[Stage],
        at_once: int,
        env: Mapping[str, str],
        cwd: Path,
        folder: Path,
        show: Callable[[str], None],
    ) -> None:
        self._waiting = list(stages)
        self._at_once = at_once
        self._env = env
        self._cwd = cwd
        self._folder = folder
        self._show = show
        self._started: list[_Running] = []
        self._next_to_show = 0
        self._headed = False

    def run(self) -> list[Result]:
        """Returns once all have ended, or one has failed and the others were stopped."""
        try:
            while self._waiting or self._running():
                while self._waiting and len(self._running()) < self._at_once:
                    self._start(self._waiting.pop(0))
                for running in self._running():
                    running.look()
                self._show_news()
                if any(running.result and not running.result.passed for running in self._started):
                    break
                time.sleep(LOOK_EVERY_S)
        finally:
            # Also when a signal ends us: what was printed so far says how far it came.
            try:
                self._stop()
            finally:
                self._show_news()
        return [running.result for running in self._started if running.result is not None]

    def _running(self) -> list[_Running]:
        return [running for running in self._started if running.result is None]

    def _start(self, stage: Stage) -> None:
        log = self._folder / f"{stage.name.replace('/', '-')}.log"
        child = spawn(stage.name, stage.command, log=log, env=self._env, cwd=self._cwd, die_with_parent=signal.SIGINT)
        self._started.append(_Running(stage, child))

    def _show_news(self) -> None:
        """The output of every stage up to the first that runs; of that one, what there is."""
        while self._next_to_show < len(self._started):
            running = self._started[self._next_to_show]
            if not self._headed:
                self._headed = True
                self._show(f"\n== {running.stage.name}\n")
            if news := running.news():
                self._show(news)
            if running.result is None:
                return
            self._next_to_show += 1
            self._headed = False

    def _stop(self) -> None:
        """Interrupts what still runs, and kills what does not end in time; at a further signal, at once."""
        try:
            for running in self._running():
                running.interrupt()
            deadline = time.monotonic() + INTERRUPT_PATIENCE_S
            while self._running() and time.monotonic() < deadline:
                for running in self._running():
                    running.look(stopped=True)
                time.sleep(LOOK_EVERY_S)
        finally:
            for running in self._running():
                running.kill(stopped=True)
