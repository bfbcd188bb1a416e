"""One step of a planned session: the calls a planner made, sent to the device message by message.

Pure: `next` says what to send, `answer` takes what the device answers, `results` has a Result for each call in the end.
Calls to one agent travel in one message, in order. A device that speaks the documents' form gets one call a message.
After a failure the calls that were not sent yet are skipped.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from aip_cluster.protocol import ClientMessage, Command, Result, ResultStatus
from node.sessions.planners import Act, Call
from node.sessions.platforms import AgentNames, Focus

__all__ = ["Message", "Step", "focused", "numbered", "shortened"]

EVENT_RESULT_CHARS = 4096
NO_RESULT = "the device gave no result for this command"
SKIPPED = "Skipped because an earlier command failed"


class Message(NamedTuple):
    """Commands for the device, sent and answered under `response_id`. The device has `limit_s` to answer, if any.

    `names`: which agent of the device serves them. Secrets are not filled in.
    """

    commands: list[Command]
    response_id: str
    names: AgentNames
    limit_s: float | None


class Step:
    """The calls of one step on their way. `act` is what the planner decided, each command with an id."""

    __slots__ = (
        *("act", "response_id", "limit_s", "results"),
        *("_awaited", "_calls", "_early", "_messages", "_names", "_single"),
    )

    def __init__(self, act: Act, response_id: str, names: AgentNames, *, single: bool, limit_s: float | None) -> None:
        """`single`: one call a message. `limit_s`: how long the device may take for a call that names no time."""
        self.act = act
        self.response_id = response_id
        self.limit_s = limit_s
        self.results: list[Result] = []
        self._names = names
        self._single = single
        self._messages = list(self._split())
        self._calls: list[Call] = []
        self._awaited = ""
        # A device that comes back may answer later messages of the step before the first is repeated.
        self._early: dict[str, ClientMessage] = {}

    def next(self) -> Message | None:
        """The next message for the device; None once every call has its Result."""
        while self._messages:
            response_id, calls = self._messages.pop(0)
            if any(r.status is ResultStatus.FAILURE for r in self.results):
                self.results += [_not_run(c.command, ResultStatus.SKIPPED, SKIPPED) for c in calls]
            elif calls[0].refused is not None:
                self.results += [_not_run(c.command, ResultStatus.FAILURE, c.refused or "") for c in calls]
            else:
                self._calls, self._awaited = calls, response_id
                early = self._early.pop(response_id, None)
                if early is None:
                    commands = [c.command for c in calls]
                    names = replace(self._names, agent_name=calls[0].agent_name or self._names.agent_name)
                    return Message(commands, response_id, names, self._limit_of(commands))
                self._take(early)
        return None

    def expects(self, response_id: str) -> bool:
        """Whether an answer to this message is expected, now or later."""
        return bool(response_id) and (
            response_id == self._awaited or any(response_id == later for later, _ in self._messages)
        )

    def answer(self, message: ClientMessage) -> bool:
        """Take the device's answer. True if it is the one that was waited for: go on with `next`."""
        response_id = message.prev_response_id or ""
        if response_id != self._awaited:
            self._early[response_id] = message
            return False
        self._take(message)
        return True

    @property
    def awaited_tools(self) -> list[str]:
        """The tools whose results are waited for."""
        return [c.command.tool_name for c in self._calls]

    def _take(self, message: ClientMessage) -> None:
        given = message.action_results or []
        if self._single:
            first = given[0] if given else Result(status=ResultStatus.NONE)
            given = [first.model_copy(update={"call_id": self._calls[0].command.call_id})]
        # Fewer results than calls leave the rest unknown, not shifted.
        missing = [_not_run(c.command, ResultStatus.FAILURE, NO_RESULT) for c in self._calls[len(given) :]]
        self.results += [*given[: len(self._calls)], *missing]
        self._calls, self._awaited = [], ""

    def _split(self) -> Iterator[tuple[str, list[Call]]]:
        """The calls by message. The ids of messages follow from the step's, so that another node finds the same."""
        runs = groupby(self.act.calls, key=lambda c: (c.agent_name, c.refused is not None))
        for number, (_, run) in enumerate(runs):
            response_id = f"{self.response_id}.{number}" if number else self.response_id
            calls = list(run)
            if self._single and calls[0].refused is None:
                yield from ((f"{response_id}.{n}", [call]) for n, call in enumerate(calls))
            else:
                yield response_id, calls

    def _limit_of(self, commands: list[Command]) -> float | None:
        """A device makes the calls of one message one after the other, and answers once: it has their time together."""
        known = [limit for c in commands if (limit := c.timeout_s or self.limit_s) is not None]
        return sum(known) if len(known) == len(commands) else None


def numbered(act: Act, turn: int) -> Act:
    """The step, each of its commands with an id."""
    calls = [
        c if c.command.call_id else replace(c, command=c.command.model_copy(update={"call_id": f"call-{turn}-{i}"}))
        for i, c in enumerate(act.calls, 1)
    ]
    return replace(act, calls=calls)


def focused(focus: Focus | None, names: AgentNames, calls: list[Call], results: list[Result]) -> AgentNames:
    """The names from now on: a tool may have put a program in focus."""
    if focus is None:
        return names
    for call, result in zip(calls, results, strict=False):
        if call.command.tool_name.rpartition(".")[2] == focus.tool and result.status is ResultStatus.SUCCESS:
            names = replace(
                names,
                process_name=_at(result.result, focus.process_name) or names.process_name,
                root_name=_at(result.result, focus.root_name) or names.root_name,
            )
    return names


def shortened(result: Result) -> dict[str, Any]:
    """A Result for the event stream: the beginning of a long one, since the whole is kept as the session's result."""
    listed = result.model_dump(exclude_none=True)
    text = str(listed.get("result", ""))
    if len(text) > EVENT_RESULT_CHARS:
        listed["result"] = text[:EVENT_RESULT_CHARS]
        listed["shortened_from"] = len(text)
    return listed


def _not_run(command: Command, status: ResultStatus, why: str) -> Result:
    return Result(status=status, error=why, call_id=command.call_id)


def _at(value: Any, path: str) -> str | None:
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
