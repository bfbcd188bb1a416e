"""The tasks of a run: what they do, for how long, and how they are written for each kind of device.

A task is one to three commands, each a side effect with a name of its own, `<task>#<number>`. A few are told to fail,
a few take seconds, a few have a deadline that they cannot keep.
"""

import random
from typing import Any

from lib.chaos.ledger import Ledger, Task
from lib.chaos.plan import Plan

__all__ = ["EFFECTS_FILE", "TaskMaker", "commands_of"]

EFFECTS_FILE = "effects.log"
LONG_MS = (1_500, 5_000)
SHORT_MS = (5, 250)
TIGHT_S = 1.5
FAILS, LONG, TIGHT = 0.06, 0.12, 0.04


class TaskMaker:
    """Makes tasks, numbered over the whole run."""

    def __init__(self, plan: Plan, ledger: Ledger, rng: random.Random) -> None:
        self.ledger = ledger
        self._plan = plan
        self._rng = rng
        self._number = 0

    def make(self, device: str, via: str, *, owner: str = "", key: str | None = None) -> Task:
        """A task for `device`, not sent yet."""
        self._number += 1
        name = f"chaos-{self._plan.seed}-{self._number}"
        dice = self._rng.random()
        count = self._rng.randint(1, 3)
        took_ms = self._rng.randint(*(LONG_MS if dice < LONG else SHORT_MS))
        timeout_s = round(self._rng.uniform(*self._plan.task_timeouts_s), 1)
        fails = LONG <= dice < LONG + FAILS
        if LONG + FAILS <= dice < LONG + FAILS + TIGHT:
            timeout_s, took_ms = TIGHT_S, 4_000
        return Task(
            name=name,
            device=device,
            via=via,
            effects=tuple(f"{name}#{i}" for i in range(1, count + 1)),
            timeout_s=timeout_s,
            sent_s=self.ledger.now_s,
            key=key,
            fails=fails,
            owner=owner,
            took_ms=took_ms,
        )


def commands_of(task: Task) -> list[dict[str, Any]]:
    """The commands, as a dispatch gives them."""
    each_ms = task.took_ms // len(task.effects)
    if task.device.startswith("real-"):
        return [_shell(effect, each_ms, fails=task.fails) for effect in task.effects]
    tool = "fail" if task.fails else "work"
    return [{"tool_name": tool, "parameters": {"effect": effect, "took_ms": each_ms}} for effect in task.effects]


def _shell(effect: str, took_ms: int, *, fails: bool) -> dict[str, Any]:
    """The same on an `aip-device`: the effect is a line in a file, written by a shell."""
    text = f'echo "$(date +%s.%N) {effect}" >> {EFFECTS_FILE}; sleep {took_ms / 1000:.3f}; echo "{effect}"'
    # A folder that is not there is a failure; an exit code would be a result.
    folder = {"cwd": "not-there"} if fails else {}
    return {"tool_name": "execute_command", "parameters": {"command": text, **folder}}
