"""Commands to results: in order, once, and never more at a time than the device can bear.

One `command` message is one unit of work with one answer. Those of a session run one after another; sessions run side
by side, up to `max_in_flight`; what waits beyond that is bounded, and beyond the bound the answer is "device busy".
A `response_id` seen again is not carried out again: it is ignored while it runs, and answered from memory afterwards,
as long as memory holds it. Losing the socket stops nothing here: answers go to `deliver`, whose business it is.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import orjson

from aip_cluster.device.errors import ToolboxError
from aip_cluster.device.origin import Origin
from aip_cluster.device.toolbox import ToolValue
from aip_cluster.protocol import (
    ClientMessage,
    ClientMessageType,
    ClientType,
    Command,
    ProtocolError,
    Result,
    ResultStatus,
    ServerMessage,
    encode,
    new_id,
    utc_now,
)

__all__ = ["MAX_ANSWER_BYTES", "AnswerMemory", "Executor", "Tools"]

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_REMEMBERED = 512
MAX_WAITING = 64
CLOSE_S = 2.0
TRACEPARENT = "traceparent"


class Tools(Protocol):
    """What carries out one command."""

    async def call(self, command: Command, origin: Origin) -> ToolValue:
        """The tool's result. Raises ToolboxError. Cancelling stops the tool."""


class AnswerMemory:
    """The last answers by `response_id`: at most 512 and 8 MiB, the least recently used go first."""

    def __init__(self, max_entries: int = MAX_REMEMBERED, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._frames: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._max_entries = max_entries
        self._max_bytes = max_bytes

    def put(self, response_id: str, frame: bytes) -> None:
        """Remember an answer, forgetting others as needed."""
        self._bytes += len(frame) - len(self._frames.pop(response_id, b""))
        self._frames[response_id] = frame
        while len(self._frames) > self._max_entries or self._bytes > self._max_bytes:
            _, forgotten = self._frames.popitem(last=False)
            self._bytes -= len(forgotten)

    def get(self, response_id: str) -> bytes | None:
        """The answer, if it is remembered."""
        frame = self._frames.get(response_id)
        if frame is not None:
            self._frames.move_to_end(response_id)
        return frame


class Executor:
    """Runs commands with `tools` and hands each answer, as `(response_id, frame)`, to `deliver`.

    Nothing here blocks the caller: `submit` and `end_session` return at once. Belongs to one event loop.
    """

    def __init__(
        self,
        tools: Tools,
        client_id: str,
        deliver: Callable[[str | None, bytes], None],
        *,
        max_in_flight: int = 8,
        max_waiting: int = MAX_WAITING,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._tools = tools
        self._client_id = client_id
        self._deliver = deliver
        self._max_in_flight = max_in_flight
        self._max_waiting = max_waiting
        self._max_answer_bytes = max_answer_bytes
        self._memory = AnswerMemory(max_bytes=max_answer_bytes)
        # A session is in `_running` while one of its commands runs, else in `_ready` if some wait in its lane.
        self._lanes: dict[str | None, deque[ServerMessage]] = {}
        self._ready: deque[str | None] = deque()
        self._running: dict[str | None, asyncio.Task[None]] = {}
        self._waiting = 0
        self._in_hand: set[str] = set()
        self._closed = False

    def submit(self, message: ServerMessage) -> None:
        """Take a `command`: run it, queue it, answer it from memory, or answer that the device is busy."""
        response_id = message.response_id
        if self._closed or response_id in self._in_hand:
            return
        if response_id is not None and (frame := self._memory.get(response_id)) is not None:
            logger.info("command %r was answered before: answering again", response_id)
            self._deliver(response_id, frame)
            return
        session_id = message.session_id
        idle = session_id not in self._running and len(self._running) < self._max_in_flight
        if not (idle and not self._ready) and self._waiting >= self._max_waiting:
            logger.warning("device busy: refused command %r of session %r", response_id, session_id)
            self._answer(message, _unrun(message, "device busy"))
            return
        if response_id is not None:
            self._in_hand.add(response_id)
        if session_id not in self._lanes:
            self._lanes[session_id] = deque()
            if session_id not in self._running:
                self._ready.append(session_id)
        self._lanes[session_id].append(message)
        self._waiting += 1
        self._start_ready()

    def end_session(self, session_id: str | None) -> None:
        """Drop what waits of a session and cancel what runs of it. Its answers are remembered, not sent."""
        for message in self._lanes.pop(session_id, ()):
            self._waiting -= 1
            self._forgo(message)
        if session_id in self._ready:
            self._ready.remove(session_id)
        if (task := self._running.get(session_id)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Take no more, cancel everything, and wait up to 2 s until the tools have stopped. May be called again."""
        self._closed = True
        self._lanes.clear()
        self._ready.clear()
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)

    def _start_ready(self) -> None:
        while self._ready and len(self._running) < self._max_in_flight:
            session_id = self._ready.popleft()
            lane = self._lanes[session_id]
            message = lane.popleft()
            if not lane:
                del self._lanes[session_id]
            self._waiting -= 1
            task = asyncio.create_task(self._run(message), name=f"command {message.response_id}")
            self._running[session_id] = task
            # A callback and not the task's own `finally`: a task cancelled before its first step has none.
            task.add_done_callback(partial(self._finished, message))

    def _finished(self, message: ServerMessage, task: asyncio.Task[None]) -> None:
        session_id = message.session_id
        del self._running[session_id]
        if task.cancelled():
            self._forgo(message)
        elif (exc := task.exception()) is not None:
            logger.error("command %r was not answered", message.response_id, exc_info=exc)
        self._in_hand.discard(message.response_id or "")
        if session_id in self._lanes:
            self._ready.append(session_id)
        self._start_ready()

    async def _run(self, message: ServerMessage) -> None:
        started = time.monotonic()
        origin = Origin(message.session_id, message.agent_name)
        results: list[Result] = []
        for command in message.actions or []:
            failed = bool(results) and results[-1].status is not ResultStatus.SUCCESS
            results.append(_skipped(command) if failed else await self._call(command, origin))
        self._answer(message, results)
        logger.info(
            "command %r of session %r: %d actions, %d succeeded, %.3f s",
            message.response_id,
            message.session_id,
            len(results),
            sum(result.status is ResultStatus.SUCCESS for result in results),
            time.monotonic() - started,
        )

    async def _call(self, command: Command, origin: Origin) -> Result:
        try:
            outcome = await self._tools.call(command, origin)
        except ToolboxError as exc:
            return Result(status=ResultStatus.FAILURE, error=str(exc), namespace=exc.namespace, call_id=command.call_id)
        except Exception:
            logger.exception("tool %r raised what it may not raise", command.tool_name)
            return Result(status=ResultStatus.FAILURE, error="internal error of the device", call_id=command.call_id)
        return Result(
            status=ResultStatus.SUCCESS,
            result=outcome.value,
            namespace=outcome.namespace,
            call_id=command.call_id,
        )

    def _answer(self, message: ServerMessage, results: list[Result]) -> None:
        frame = self._frame(message, results)
        if message.response_id is not None:
            self._memory.put(message.response_id, frame)
        self._deliver(message.response_id, frame)

    def _forgo(self, message: ServerMessage) -> None:
        """Remember, without sending it, that a command was cancelled: sent again, it must not run after all."""
        if message.response_id is not None:
            self._in_hand.discard(message.response_id)
            results = _unrun(message, "cancelled, because its session ended")
            self._memory.put(message.response_id, self._frame(message, results))

    def _frame(self, message: ServerMessage, results: list[Result]) -> bytes:
        """The answer as it travels. A result that cannot travel becomes a failure that says so."""
        results = list(results)
        while True:
            try:
                frame = encode(
                    ClientMessage(
                        type=ClientMessageType.COMMAND_RESULTS,
                        status=message.status,
                        client_id=self._client_id,
                        client_type=ClientType.DEVICE,
                        session_id=message.session_id,
                        prev_response_id=message.response_id,
                        action_results=results,
                        request_id=new_id(),
                        timestamp=utc_now(),
                        metadata=_trace_of(message),
                    )
                )
                reason = f"the answer would be larger than {self._max_answer_bytes} bytes"
            except ProtocolError as exc:
                frame, reason = None, str(exc)
            if frame is not None and len(frame) <= self._max_answer_bytes:
                return frame
            sizes = [_size(result) for result in results]
            worst = max(range(len(results)), key=sizes.__getitem__, default=0)
            if frame is not None and (not results or sizes[worst] == 0):
                return frame
            failure = {"status": ResultStatus.FAILURE, "result": None, "error": f"the result cannot be sent: {reason}"}
            results[worst] = results[worst].model_copy(update=failure)


def _trace_of(message: ServerMessage) -> dict[str, Any] | None:
    """Where the command stands in a trace, for the answer to stand there too: W3C's `traceparent`."""
    traceparent = (message.metadata or {}).get(TRACEPARENT)
    return {TRACEPARENT: traceparent} if isinstance(traceparent, str) else None


def _unrun(message: ServerMessage, reason: str) -> list[Result]:
    """The results of a command of which nothing was carried out."""
    return [
        Result(status=ResultStatus.FAILURE, error=reason, call_id=command.call_id) if index == 0 else _skipped(command)
        for index, command in enumerate(message.actions or [])
    ]


def _skipped(command: Command) -> Result:
    return Result(
        status=ResultStatus.SKIPPED, error="skipped, because an action before it failed", call_id=command.call_id
    )


def _size(result: Result) -> float:
    """Bytes of a result's value on the wire: 0 for none, infinite for one that JSON cannot carry."""
    if result.result is None:
        return 0
    try:
        return len(orjson.dumps(result.result))
    except (TypeError, ValueError, RecursionError):
        return float("inf")
