"""Drives a server-driven session: asks the planner, sends commands, hands it the results, until the end.

Each step is stored before it is sent. The driver keeps nothing of a session beyond the call; whatever a planner raises
fails that session and no other.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Protocol

from aip import (
    Command,
    Result,
    ResultStatus,
    ServerMessage,
    ServerMessageType,
    TaskStatus,
    new_id,
    utc_now,
)
from aip.codec import encode_payload_command
from node.sessions.local import LocalSession
from node.sessions.planners import Act, Finish, Task, Turn
from shared_state.sessions import SessionState

__all__ = ["Advance", "Driver", "shortened"]

log = logging.getLogger(__name__)

EVENT_RESULT_CHARS = 4096
SKIPPED = "Skipped because an earlier command failed"


class Advance(Protocol):
    """Stores a step of a session; None if the session is over."""

    def __call__(
        self, session: LocalSession, state: SessionState | None, event: dict[str, Any]
    ) -> Awaitable[SessionState | None]: ...


class Driver:
    """Runs planners."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    async def run(self, session: LocalSession) -> Finish | None:
        """The end that the planner came to, or None if the session was ended meanwhile. Cancelling is safe."""
        order = session.order
        task = Task(order.request, session.platform, order.commands, order.metadata)
        try:
            while True:
                step = await session.planner.next(task)
                if isinstance(step, Finish):
                    return step
                results = await self._act(session, step, turn=len(task.turns) + 1)
                if results is None:
                    return None
                task.turns.append(Turn(step.commands, results))
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a session broke", extra={"session_id": session.session_id})
            return Finish(error="The session broke inside the node")

    async def _act(self, session: LocalSession, step: Act, *, turn: int) -> list[Result] | None:
        """Send commands and wait for their results. None if the session is over."""
        commands = [
            c if c.call_id else c.model_copy(update={"call_id": f"call-{turn}-{i}"})
            for i, c in enumerate(step.commands, 1)
        ]
        response_id = new_id()
        event = {
            "event": "commands",
            "response_id": response_id,
            "actions": [c.model_dump(exclude_none=True) for c in commands],
        }
        if await self._advance(session, SessionState.RUNNING, event) is None or session.over:
            return None
        if session.connection.payload_format:
            results = await self._exchange_payload(session, commands)
        else:
            results = await self._exchange(session, commands, response_id)
        event = {"event": "results", "response_id": response_id, "results": [shortened(r) for r in results]}
        if await self._advance(session, None, event) is None:
            return None
        return results

    @staticmethod
    async def _exchange(session: LocalSession, commands: list[Command], response_id: str) -> list[Result]:
        names = session.agent
        answer = session.expect(response_id)
        session.connection.send(
            ServerMessage(
                type=ServerMessageType.COMMAND,
                status=TaskStatus.CONTINUE,
                session_id=session.session_id,
                task_name=session.order.task_name,
                response_id=response_id,
                actions=commands,
                agent_name=names.agent_name,
                process_name=names.process_name,
                root_name=names.root_name,
            )
        )
        return (await answer).action_results or []

    @staticmethod
    async def _exchange_payload(session: LocalSession, commands: list[Command]) -> list[Result]:
        """The documents' form carries one command a frame: the order and the early exit are kept here."""
        results: list[Result] = []
        for command in commands:
            if any(r.status is ResultStatus.FAILURE for r in results):
                results.append(Result(status=ResultStatus.SKIPPED, error=SKIPPED, call_id=command.call_id))
                continue
            request_id = new_id()
            answer = session.expect(request_id)
            session.connection.send_raw(encode_payload_command(command, request_id, utc_now()))
            given = (await answer).action_results or [Result(status=ResultStatus.NONE)]
            results.append(given[0].model_copy(update={"call_id": command.call_id}))
        return results


def shortened(result: Result) -> dict[str, Any]:
    """A Result for the event stream: a long one as its beginning, since the whole is kept as the session's result."""
    listed = result.model_dump(exclude_none=True)
    text = str(listed.get("result", ""))
    if len(text) > EVENT_RESULT_CHARS:
        listed["result"] = text[:EVENT_RESULT_CHARS]
        listed["shortened_from"] = len(text)
    return listed
