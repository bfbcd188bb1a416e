"""What a command may know of the agent's environment, and how the agent keeps the rest from it.

Promises: a command inherits the variables of an allow-list and those that the operator names, no others. The agent's
own process shows no other variables either, nor the value of `--token`: not in `/proc/PID/environ`, not in
`/proc/PID/cmdline`. On Linux it is not dumpable, so a process of the same user cannot read its memory.

The limit: root may read any process's memory, unless a container or a security module forbids it. And the process
that started the agent keeps its own environment: a shell, a supervisor.
"""

import ctypes
import json
import logging
import os
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from typing import NoReturn

__all__ = ["OWN_VARIABLES", "command_environment", "forbid_reading_of_memory", "restart_without_secrets"]

logger = logging.getLogger(__name__)

# Where and how a command runs; none of these carries a credential.
_PASSED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "XDG_SESSION_TYPE"),
    }
)
# What the interpreter and the loader of the restarted agent itself need.
_OF_THE_INTERPRETER = ("PYTHON", "LD_", "DYLD_", "VIRTUAL_ENV")

# The agent's own keys. No setting gives them to a command.
OWN_VARIABLES = frozenset({"AIP_API_KEY", "AIP_DEVICE_TOKEN"})

# Names the descriptor through which a restarted agent reads its arguments and its environment.
_HANDED_OVER = "AIP_DEVICE_HANDED_OVER_FD"

_PR_SET_DUMPABLE = 4


def command_environment(also: Collection[str] = (), *, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that a command inherits: those of the allow-list, and those named in `also`."""
    inherited = os.environ if environ is None else environ
    return {
        name: value
        for name, value in inherited.items()
        if (name in _PASSED or name.startswith("LC_") or name in also) and name not in OWN_VARIABLES
    }


def restart_without_secrets(argv: Sequence[str]) -> list[str]:
    """Start this program again, in the same process, with an environment and a command line without secrets.

    Returns only in the program that was started so, with the arguments of the first one; `os.environ` then holds the
    first one's variables. Deleting a variable would not do: `/proc/PID/environ` keeps what a program was started with.
    """
    handed_over = os.environ.pop(_HANDED_OVER, None)
    if handed_over is None:
        _restart(argv)
    # First: from here on no other process of this user can open the descriptor through /proc.
    forbid_reading_of_memory()
    with os.fdopen(int(handed_over), encoding="utf-8") as file:
        arguments, variables = json.load(file)
    os.environ.update(variables)
    return [str(argument) for argument in arguments]


def _restart(argv: Sequence[str]) -> NoReturn:
    """Raises OSError if the system refuses it: better no agent than one that shows its key."""
    # Stays open while the new program takes over; that one closes it once it has read it.
    descriptor = _unnamed_file()
    os.write(descriptor, json.dumps([list(argv), dict(os.environ)]).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.set_inheritable(descriptor, True)
    kept = {name: value for name, value in os.environ.items() if name.startswith(_OF_THE_INTERPRETER)}
    start = sys.orig_argv[1 : len(sys.orig_argv) - len(argv)]
    os.execve(  # noqa: S606 - this very program, without a shell
        sys.executable,
        [sys.executable, *start, *_shown(argv)],
        {**command_environment(), **kept, _HANDED_OVER: str(descriptor)},
    )


def forbid_reading_of_memory() -> None:
    """Make this process not dumpable, on Linux: no other process of its user may trace it or read its memory."""
    if sys.platform != "linux":
        return
    try:
        refused = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0
    except (OSError, AttributeError):
        refused = True
    if refused:
        logger.warning("this process stays dumpable: commands of its user can read its memory")


def _unnamed_file() -> int:
    """A file that no folder names; in memory, where the system can."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("aip-device")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _shown(argv: Sequence[str]) -> list[str]:
    """The arguments without `--token` and its value."""
    shown: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--token":
            next(arguments, None)
        elif not argument.startswith("--token="):
            shown.append(argument)
    return shown
