"""The tasks of a run: what they do, for how long, and how they are written for each kind of device.

A task is one to three commands, each a side effect with a name of its own, `<task>#<number>`. A few are told to fail,
a few take seconds, a few have a deadline that they cannot keep, and some are planned step by step by a model.
"""

import random
from typing import Any

from devtools.chaos.ledger import Ledger, Task
from devtools.chaos.plan import Plan

__all__ = ["EFFECTS_FILE", "TaskMaker", "body_of", "commands_of"]

EFFECTS_FILE = "effects.log"
LONG_MS = (1_500, 5_000)
SHORT_MS = (5, 250)
TIGHT_S = 1.5
FAILS, LONG, TIGHT, PLANNED = 0.06, 0.12, 0.04, 0.15
# UFO's devices recognise no command that is sent again: a session of many steps seldom outlives a run there.
PLANNED_ON = ("real-", "light-")


class TaskMaker:
    """Makes tasks, numbered over the whole run."""

    def __init__(self, plan: Plan, ledger: Ledger, rng: random.Random) -> None:
        self.ledger = ledger
        self._plan = plan
        self._rng = rng
        self._number = 0

    def make(
        self, device: str, via: str, *, owner: str = "", key: str | None = None, may_be_planned: bool = False
    ) -> Task:
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
        planned = may_be_planned and dice > 1 - PLANNED and device.startswith(PLANNED_ON)
        if planned:
            count, took_ms = count + 2, self._rng.randint(*LONG_MS)
        return Task(
            name=name,
            device=device,
            via=via,
            effects=tuple(f"{name}#{i}" for i in range(1, count + 1)),
            timeout_s=timeout_s,
            sent_s=self.ledger.now_s,
            key=key,
            fails=fails,
            planned=planned,
            owner=owner,
            took_ms=took_ms,
        )


def body_of(task: Task) -> dict[str, Any]:
    """The dispatch over REST."""
    body: dict[str, Any] = {
        "client_id": task.device,
        "request": f"carry out {task.name}",
        "task_name": task.name,
        "timeout_s": task.timeout_s,
    }
    return {**body, "planner": "llm"} if task.planned else {**body, "commands": commands_of(task)}


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
