"""Drives a server-driven session: asks the planner, sends commands, hands it the results, until the end.

Each step is stored in the session's journal before it is sent, without the secrets that are filled in with it, so that
another node can go on where this one stopped. The driver keeps nothing of a session beyond the call; whatever a planner
raises fails that session and no other.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Protocol

from aip_cluster.protocol import (
    ClientMessage,
    Command,
    Result,
    ResultStatus,
    ServerMessage,
    ServerMessageType,
    TaskStatus,
    new_id,
    utc_now,
)
from aip_cluster.protocol.codec import encode_payload_command
from aip_cluster.protocol.features import DEDUPLICATES
from aip_cluster.protocol.ids import now_ms
from node.sessions.journal import act_entry, results_entry
from node.sessions.local_session import LocalSession, Restored
from node.sessions.planners import Act, Call, Finish, Planner, Task, Tokens, Turn
from node.sessions.platforms import AgentNames, Focus
from node.sessions.secrets import ToolSecrets
from node.sessions.tool_catalog import ToolCatalog
from node.telemetry.metrics import Metrics
from shared_state.sessions import SessionState

__all__ = ["Advance", "Driver", "response_ids", "shortened"]

log = logging.getLogger(__name__)

EVENT_RESULT_CHARS = 4096
# What is left of a name in an error.
NAME_CHARS = 256
NO_RESULT = "the device gave no result for this command"
SKIPPED = "Skipped because an earlier command failed"


class Advance(Protocol):
    """Stores a step of a session; None if the session is over."""

    def __call__(
        self,
        session: LocalSession,
        state: SessionState | None,
        event: dict[str, Any] | None,
        *,
        journal: Sequence[Mapping[str, Any]] = (),
        fields: Mapping[str, str] = ...,
    ) -> Awaitable[SessionState | None]: ...


class _Unanswered(Exception):
    """The device took a command, and does not answer; `str(error)` says it to whoever asked for the task."""


Note = Callable[[LocalSession, dict[str, Any]], Awaitable[None]]


class Driver:
    """Runs planners."""

    def __init__(
        self,
        advance: Advance,
        note: Note,
        tools: ToolCatalog,
        secrets: ToolSecrets,
        metrics: Metrics,
        command_timeout_s: float,
    ) -> None:
        self._advance = advance
        self._note_behind = note
        self._tools = tools
        self._secrets = secrets
        self._metrics = metrics
        self._command_timeout_s = command_timeout_s

    async def run(self, session: LocalSession) -> Finish | None:
        """The end that the planner came to, or None if the session was ended meanwhile. Cancelling is safe."""
        session.timing.enter()
        order, restored = session.order, session.restored or Restored()
        names = session.agent
        task = Task(
            order.request,
            session.platform.name,
            session.platform.prompt,
            names.agent_name,
            order.commands,
            order.metadata,
            turns=list(restored.turns),
            tokens=restored.tokens,
        )
        for turn in restored.turns:
            names = _focused(session.platform.focus, names, turn.calls, turn.results)
        # A step that was sent over an earlier connection, and is not answered yet.
        unanswered = restored.act
        # Of steps that were not worth a call of their own: stored with the next.
        behind: list[Mapping[str, Any]] = []
        try:
            while True:
                if unanswered is not None:
                    step, response_id, unanswered = unanswered, restored.response_id, None
                    session.in_step = True
                else:
                    if session.planner.wants_tools:
                        task.tools = await self._tools.tools(session, self._agents(session, names))
                    asked = await self._ask(session, session.planner, task, names)
                    if isinstance(asked, Finish):
                        return asked
                    step, response_id = _numbered(asked, len(task.turns) + 1), new_id()
                    # A socket that is about to be moved gets no further step: it is made where its device comes back.
                    await session.connection.released()
                    session.in_step = True
                    if not await self._note(session, step, response_id, behind):
                        return None
                results = await self._act(session, step, response_id, names)
                session.in_step = False
                if results is None:
                    return None
                behind = [] if session.planner.wants_tools else [results_entry(results)]
                task.turns.append(Turn(step.calls, results, step.text))
                names = _focused(session.platform.focus, names, step.calls, results)
        except asyncio.CancelledError:
            raise
        except _Unanswered as exc:
            return Finish(error=str(exc))
        except Exception:
            log.exception("a session broke", extra={"session_id": session.session_id})
            return Finish(error="The session broke inside the node")

    @staticmethod
    def _agents(session: LocalSession, names: AgentNames) -> list[AgentNames]:
        """Whose tools are offered: every agent of the platform that has any now, or the one that was named."""
        platform = session.platform
        if "agent_name" in session.order.metadata or len(platform.agents) < 2:
            return [names]
        in_focus = names.process_name or names.root_name
        return [
            replace(names, agent_name=agent)
            for agent in platform.agents
            if in_focus or agent not in platform.focused_agents
        ]

    async def _ask(self, session: LocalSession, planner: Planner, task: Task, names: AgentNames) -> Act | Finish:
        started = time.monotonic()
        task.time_left_s = max(0.0, (session.order.deadline_ms - now_ms()) / 1000)
        step = await planner.next(task)
        task.tokens += step.tokens
        if planner.wants_tools or step.tokens.total:
            if isinstance(step, Act) or step.asked:
                self._metrics.llm_calls.labels(_outcome(step)).inc()
                self._metrics.llm_seconds.observe(time.monotonic() - started)
            self._metrics.llm_tokens.labels("prompt").inc(step.tokens.prompt)
            self._metrics.llm_tokens.labels("completion").inc(step.tokens.completion)
            event = {
                "event": "plan",
                "planner": planner.name,
                "tokens": {"prompt": step.tokens.prompt, "completion": step.tokens.completion},
                "took_ms": int((time.monotonic() - started) * 1000),
            }
            if isinstance(step, Act) and step.text:
                event["text"] = step.text[:EVENT_RESULT_CHARS]
            await self._advance(session, None, event, fields=_spent(task.tokens))
        if isinstance(step, Act) and not planner.wants_tools:
            # One that wants tools was given those that there are.
            refusal = await self._tools.refusal(session, step.calls, names)
            return step if refusal is None else Finish(error=refusal)
        return step

    async def _note(
        self, session: LocalSession, step: Act, response_id: str, behind: Sequence[Mapping[str, Any]]
    ) -> bool:
        """Store a step that is about to be sent, and what came of the one before. False if the session is over."""
        event: dict[str, Any] = {
            "event": "commands",
            "response_id": response_id,
            "actions": [self._secrets.strip(c.command).model_dump(exclude_none=True) for c in step.calls],
        }
        journal = [*behind, act_entry(step, response_id)]
        return await self._advance(session, SessionState.RUNNING, event, journal=journal) is not None

    async def _act(self, session: LocalSession, step: Act, response_id: str, names: AgentNames) -> list[Result] | None:
        """Make the calls, in order, and return a Result for each. None if the session is over."""
        if session.over:
            return None
        started = time.monotonic()
        results = await self._make(session, step, response_id, names)
        event = {
            "event": "results",
            "response_id": response_id,
            "results": [shortened(r) for r in results],
            "took_ms": int((time.monotonic() - started) * 1000),
        }
        if not session.planner.wants_tools:
            # It ends, or goes on, at once: what came is stored with that.
            await self._note_behind(session, event)
            return None if session.over else results
        # A planner that has to think leaves time to be interrupted in.
        stored = await self._advance(session, None, event, journal=[results_entry(results)])
        return None if stored is None else results

    async def _make(self, session: LocalSession, step: Act, response_id: str, names: AgentNames) -> list[Result]:
        """Send what is to be sent, one message for each run of calls to the same agent."""
        results: list[Result] = []
        for run_id, part in _runs(step, response_id):
            if any(r.status is ResultStatus.FAILURE for r in results):
                results += [_not_run(c.command, ResultStatus.SKIPPED, SKIPPED) for c in part]
            elif part[0].refused is not None:
                results += [_not_run(c.command, ResultStatus.FAILURE, c.refused or "") for c in part]
            else:
                commands = [self._secrets.fill(c.command, given_wins=not session.planner.wants_tools) for c in part]
                to = replace(names, agent_name=part[0].agent_name or names.agent_name)
                given = await self._send(session, commands, run_id, to)
                # Fewer results than commands leave the rest unknown, not shifted.
                unanswered = [_not_run(c.command, ResultStatus.FAILURE, NO_RESULT) for c in part[len(given) :]]
                results += [*given[: len(part)], *unanswered]
        return results

    async def _send(
        self, session: LocalSession, commands: list[Command], response_id: str, names: AgentNames
    ) -> list[Result]:
        if session.connection.payload_format:
            return await self._exchange_payload(session, commands, response_id)
        answer = session.expect(response_id)
        session.connection.send(
            ServerMessage(
                type=ServerMessageType.COMMAND,
                status=TaskStatus.CONTINUE,
                session_id=session.session_id,
                task_name=session.order.task_name,
                response_id=response_id,
                metadata=session.timing.carried,
                actions=[_for_device(command) for command in commands],
                agent_name=names.agent_name,
                process_name=names.process_name,
                root_name=names.root_name,
            )
        )
        return (await self._answered(session, answer, commands)).action_results or []

    async def _exchange_payload(self, session: LocalSession, commands: list[Command], response_id: str) -> list[Result]:
        """The documents' form carries one command a frame: the order and the early exit are kept here."""
        results: list[Result] = []
        for number, command in enumerate(commands):
            if any(r.status is ResultStatus.FAILURE for r in results):
                results.append(_not_run(command, ResultStatus.SKIPPED, SKIPPED))
                continue
            request_id = f"{response_id}.{number}"
            answer = session.expect(request_id)
            session.connection.send_raw(encode_payload_command(command, request_id, utc_now()))
            message = await self._answered(session, answer, [command])
            given = message.action_results or [Result(status=ResultStatus.NONE)]
            results.append(given[0].model_copy(update={"call_id": command.call_id}))
        return results

    async def _answered(
        self, session: LocalSession, answer: "asyncio.Future[ClientMessage]", commands: list[Command]
    ) -> ClientMessage:
        """The device's answer to these commands. Raises _Unanswered once it has taken longer than it may."""
        limit_s = self._limit_s(session, commands)
        if limit_s is None:
            return await answer  # the session's deadline is one
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except TimeoutError:
            names = ", ".join(f"'{c.tool_name[:NAME_CHARS]}'" for c in commands[:10])
            raise _Unanswered(f"The device took {names} and did not answer within {limit_s:g} s") from None

    def _limit_s(self, session: LocalSession, commands: list[Command]) -> float | None:
        """A device makes the calls of one message one after the other, and answers once: it has their time together."""
        remembers = DEDUPLICATES in session.connection.features
        limits = [c.timeout_s or (None if remembers else self._command_timeout_s) for c in commands]
        known = [limit for limit in limits if limit is not None]
        return sum(known) if len(known) == len(limits) else None


def response_ids(step: Act, response_id: str) -> list[str]:
    """The ids of all the messages that a step is sent with."""
    return [run_id for run_id, _ in _runs(step, response_id)]


def _runs(step: Act, response_id: str) -> Iterator[tuple[str, list[Call]]]:
    """The calls of a step, by message: each goes to one agent. Their ids follow from the step's."""
    for number, (_, run) in enumerate(groupby(step.calls, key=lambda c: (c.agent_name, c.refused is not None))):
        yield (f"{response_id}.{number}" if number else response_id), list(run)


def _numbered(step: Act, turn: int) -> Act:
    """The step, each of its commands with an id."""
    calls = [
        c if c.command.call_id else replace(c, command=c.command.model_copy(update={"call_id": f"call-{turn}-{i}"}))
        for i, c in enumerate(step.calls, 1)
    ]
    return replace(step, calls=calls)


def _for_device(command: Command) -> Command:
    """As it is sent: how long the device may take is no business of its own."""
    return command if command.timeout_s is None else command.model_copy(update={"timeout_s": None})


def _not_run(command: Command, status: ResultStatus, why: str) -> Result:
    return Result(status=status, error=why, call_id=command.call_id)


def _focused(focus: Focus | None, names: AgentNames, calls: list[Call], results: list[Result]) -> AgentNames:
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


def _at(value: Any, path: str) -> str | None:
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def _outcome(step: Act | Finish) -> str:
    """How an answer of a model is counted. Without any tokens there was none: that is what its error says."""
    if isinstance(step, Act):
        return "act"
    return "error" if step.error and not step.tokens.total else "finish"


def _spent(tokens: Tokens) -> dict[str, str]:
    return {"prompt_tokens": str(tokens.prompt), "completion_tokens": str(tokens.completion)}


def shortened(result: Result) -> dict[str, Any]:
    """A Result for the event stream: a long one as its beginning, since the whole is kept as the session's result."""
    listed = result.model_dump(exclude_none=True)
    text = str(listed.get("result", ""))
    if len(text) > EVENT_RESULT_CHARS:
        listed["result"] = text[:EVENT_RESULT_CHARS]
        listed["shortened_from"] = len(text)
    return listed
