"""How a script ends: its exit codes, and the error that carries one."""

import signal
import sys
from enum import IntEnum
from pathlib import Path
from types import FrameType

__all__ = ["Exit", "ScriptError", "end_cleanly_on_signals", "report", "say", "tail"]

TAIL_LINES = 20


class Exit(IntEnum):
    """Exit codes; argparse itself uses 2 for a wrong command line."""

    OK = 0
    ALREADY_UP = 1
    USAGE = 2
    MISSING = 3
    PORT_IN_USE = 4
    NOT_READY = 5
    DEMO_FAILED = 6
    LOST = 7


class ScriptError(Exception):
    """The script cannot go on. `log` is a file whose end explains why, if there is one."""

    def __init__(self, code: int, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.log = log


def end_cleanly_on_signals() -> None:
    """Until other handlers are set, a signal unwinds the stack: what was changed for a moment is restored."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def say(text: str = "") -> None:
    """A line for the person in front of the terminal, at once also where the output is a pipe."""
    print(text, flush=True)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, indented; empty if there is nothing to read."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def report(script: str, error: ScriptError) -> int:
    """The one message about `error`, on standard error; returns its exit code."""
    print(f"{script}: {error}", file=sys.stderr)
    if error.log is not None and (end := tail(error.log)):
        print(f"The end of {error.log}:\n{end}", file=sys.stderr)
    return error.code
