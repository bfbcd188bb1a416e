"""Processes of ours: started in a session of their own, told apart from strangers, stopped without leftovers.

A process is known by its pid *and* the time at which it started, so that a pid that was used again is never
signalled. In the foreground a child also dies with its parent (PR_SET_PDEATHSIG), even a parent that was killed.
Linux only: it reads /proc and signals through pidfds.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

__all__ = [
    "Child",
    "Process",
    "current",
    "describe_exit",
    "forget",
    "recorded",
    "remember",
    "spawn",
    "stop",
    "wait_for_end",
]

PR_SET_PDEATHSIG = 1
# Longer than a node takes to stop where nobody is at work; then its drain is cut short.
STOP_PATIENCE_S = 40.0
AGAIN_PATIENCE_S = 20.0
RECORD = "processes.json"


@dataclass(frozen=True)
class Process:
    """A process that may not be our child any more. `started` is in clock ticks since the machine booted."""

    name: str
    pid: int
    started: int

    @property
    def kind(self) -> str:
        """`node` for `node-1`."""
        return self.name.partition("-")[0]

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        seen = _stat(self.pid)
        return seen is not None and seen.started == self.started and seen.state not in "ZX"

    def signal(self, number: int) -> None:
        """Sends a signal, or does nothing if the process is gone, whoever has its pid now."""
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if self.alive():
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


@dataclass(frozen=True)
class Child:
    """A process that this one started, and its log."""

    process: Process
    handle: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True)
class _Stat:
    state: str
    group: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses, and may hold anything.
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(fields[0], int(fields[2]), int(fields[19]))


def spawn(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    cwd: Path,
    die_with_parent: signal.Signals | None,
) -> Child:
    """Starts `command` with both outputs in `log`. Raises OSError if it cannot be executed.

    `die_with_parent` is what the child gets when this process ends in whatever way; None lets it live on.
    """
    parent = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)

    def between_fork_and_exec() -> None:
        if die_with_parent is not None:
            libc.prctl(PR_SET_PDEATHSIG, int(die_with_parent), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    with log.open("wb") as output:
        handle = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=between_fork_and_exec,  # noqa: PLW1509 - safe: this program has one thread
        )
    seen = _stat(handle.pid)
    return Child(Process(name, handle.pid, seen.started if seen else 0), handle, log)


def current(name: str) -> Process:
    """This very process."""
    seen = _stat(os.getpid())
    return Process(name, os.getpid(), seen.started if seen else 0)


def describe_exit(code: int) -> str:
    """`exited with code 3`, or by which signal it was killed."""
    if code >= 0:
        return f"exited with code {code}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def stop(processes: Sequence[Process], hurry: Callable[[], bool] = lambda: False) -> list[str]:
    """Ends the processes, last kind first; returns the names of those that had to be killed.

    Each gets SIGTERM and, after a bound or when `hurry` says so, SIGTERM once more, which cuts the drain of a node
    short, and then SIGKILL; what is left of its process group goes with it.
    """
    killed: list[str] = []
    for _, same_kind in groupby(reversed(processes), key=lambda process: process.kind):
        batch = [process for process in same_kind if process.alive()]
        leftovers = _group_members(process.pid for process in batch)
        for process in batch:
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_PATIENCE_S
        for process in batch:
            while process.alive() and time.monotonic() < deadline and not hurry():
                wait_for_end(process, 0.2)
            if process.alive():
                process.signal(signal.SIGTERM)
                wait_for_end(process, AGAIN_PATIENCE_S)
            if process.alive():
                killed.append(process.name)
                process.signal(signal.SIGKILL)
                wait_for_end(process, 5.0)
        for process in leftovers:
            process.signal(signal.SIGKILL)
    return killed


def wait_for_end(process: Process, seconds: float) -> None:
    """Returns when the process has ended, or after `seconds`."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(seconds * 1000)
        finally:
            os.close(handle)


def _group_members(leaders: Iterable[int]) -> list[Process]:
    wanted = set(leaders)
    members = []
    for entry in Path("/proc").iterdir() if wanted else ():
        if entry.name.isdigit() and (seen := _stat(int(entry.name))) and seen.group in wanted:
            members.append(Process("", int(entry.name), seen.started))
    return members


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def remember(run_dir: Path, processes: Sequence[Process]) -> None:
    """Writes down what runs, for `scripts/down` and for the next `scripts/up`."""
    content = {"boot_id": _boot_id(), "processes": [asdict(process) for process in processes]}
    new = run_dir / f"{RECORD}.new"
    new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    new.replace(run_dir / RECORD)


def recorded(run_dir: Path) -> list[Process]:
    """What was written down and still runs, in the order in which it was started."""
    try:
        content = json.loads((run_dir / RECORD).read_text(encoding="utf-8"))
        processes = [Process(**item) for item in content["processes"]]
        same_boot = content["boot_id"] == _boot_id()
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [process for process in processes if same_boot and process.alive()]


def forget(run_dir: Path) -> None:
    """Removes what `remember` wrote."""
    (run_dir / RECORD).unlink(missing_ok=True)
