"""A session on the node that holds its device's socket, as a state machine: inputs go in, effects come out.

There is no asyncio here, no Redis and no clock. `runner` feeds the inputs, performs the effects and owns the timers;
`writer` stores. Each input is a method, and returns the effects in the order in which they are to be performed.

| state | what is awaited | input → next state |
|---|---|---|
| NEW | its start, on its way to Redis, if it had to wait | `start` → HANDED_OVER or PLANNING |
| HANDED_OVER | the device's echo, or its first report | `echo`, `echo_late` → PLANNING; `results` → DEVICE_WORKS |
| DEVICE_WORKS | what the device reports | `results` → DEVICE_WORKS or OVER |
| PLANNING | the planner | `planned` → STORING_STEP, STORING_PLAN or OVER |
| STORING_PLAN | what the planner's last answer cost, on its way to Redis | `stored` → OVER |
| STORING_STEP | the step, on its way to Redis | `stored` → ON_DEVICE |
| ON_DEVICE | the device's results | `results` → ON_DEVICE, STORING_RESULTS or PLANNING; `unanswered` → OVER |
| STORING_RESULTS | the results, on their way to Redis | `stored` → PLANNING |
| OVER | nothing | everything is ignored |

From every state but OVER: `device_ended`, `deadline`, `failed` → OVER with an `End`; `stopped` → OVER without one.

A socket that breaks while a step is being stored: the runner feeds `stopped`, so the step is not sent from here, and
the writer gives the call up. Whether the step came to be stored decides what happens next. If it is stored, the node
that the device comes back to finds it in the journal, fences this connection and sends the step once more, under the
same id; the device recognises it, or has never seen it. If it is not stored, that node asks the planner for the step
anew. In both cases it was sent at most once. Until then the session is `suspended` (see `suspension` and `resumption`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple, cast

from aip_cluster.protocol import ClientMessage, TaskStatus
from node.sessions.device_reports import outcome_of, progress_of
from node.sessions.journal import Restored, act_entry, results_entry
from node.sessions.planners import Act, Finish, Task, Tokens, Turn
from node.sessions.platforms import AgentNames, Platform
from node.sessions.step import Message, Step, focused, numbered, shortened
from node.sessions.task_spec import TaskSpec
from shared_state.sessions import SessionState

__all__ = [
    "AwaitEcho",
    "Device",
    "Effect",
    "End",
    "Note",
    "NoteDispatched",
    "Plan",
    "Send",
    "SendTask",
    "SessionMachine",
    "Stage",
    "Store",
]

NAME_CHARS = 256
_OVER = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.ERROR})


class Stage(Enum):
    """The states of the machine; see the table above."""

    NEW = auto()
    HANDED_OVER = auto()
    DEVICE_WORKS = auto()
    PLANNING = auto()
    STORING_PLAN = auto()
    STORING_STEP = auto()
    ON_DEVICE = auto()
    STORING_RESULTS = auto()
    OVER = auto()


_IN_STEP = frozenset({Stage.STORING_STEP, Stage.ON_DEVICE, Stage.STORING_RESULTS})


# -- effects -----------------------------------------------------------------------------------------------------------
class SendTask(NamedTuple):
    """Send the task to the device, under its one id."""


class Send(NamedTuple):
    """Send commands to the device. If it has not answered within the message's limit, feed `unanswered`."""

    message: Message


class AwaitEcho(NamedTuple):
    """Feed `echo_late` if the device has not repeated the task in time."""


class NoteDispatched(NamedTuple):
    """Note that the task was handed over. It is stored with the next step, with the end, or by itself soon."""


class Note(NamedTuple):
    """Note something that happened. It is stored with the next step, with the end, or by itself soon."""

    event: dict[str, Any]


@dataclass(slots=True, frozen=True)
class Store:
    """Store a step, then feed `stored`. With a state or a journal entry it is repeated for as long as Redis is away."""

    state: SessionState | None
    events: tuple[dict[str, Any], ...]
    journal: Sequence[Mapping[str, Any]] = ()
    fields: Mapping[str, str] = field(default_factory=dict)


class Plan(NamedTuple):
    """Ask the planner what is next, then feed `planned`."""


class End(NamedTuple):
    """Store the end, and tell the requester. With `tell_device` the device is told, too.

    `fenced`: the end counts only as long as no newer connection drives the session.
    """

    state: SessionState
    result: Any = None
    error: str | None = None
    tell_device: bool = True
    fenced: bool = True


Effect = SendTask | Send | AwaitEcho | NoteDispatched | Note | Store | Plan | End
Effects = Sequence[Effect]
_NOTHING: Effects = ()


class Device(NamedTuple):
    """What the machine has to know of the device. `command_limit_s`: how long it may take for a command, if bounded."""

    echoes: bool
    single_commands: bool
    recognises_repeats: bool
    command_limit_s: float | None


class SessionMachine:
    """One session over one connection of its device."""

    __slots__ = (
        *("spec", "platform", "stage", "running", "echoed", "names", "step", "_task"),
        *("_acting_since_s", "_device", "_device_driven", "_finish", "_unstored", "_wants_tools"),
    )

    def __init__(
        self,
        spec: TaskSpec,
        platform: Platform,
        device: Device,
        *,
        device_driven: bool,
        wants_tools: bool,
    ) -> None:
        """`device_driven`: the device works on its own. `wants_tools`: the planner is given the device's tools."""
        self.spec = spec
        self.platform = platform
        self.stage = Stage.NEW
        # Whether the work has begun: the planner was asked, or the device reports.
        self.running = False
        self.echoed = False
        # The step under way, in the states from STORING_STEP to STORING_RESULTS.
        self.step: Step | None = None
        # Which tool set of the device serves the session; a tool may change it.
        self.names: AgentNames = platform.names(spec.metadata)
        # What the planner sees, once it was asked.
        self._task: Task | None = None
        # The end that follows in STORING_PLAN.
        self._finish = Finish()
        self._acting_since_s = 0.0
        self._device = device
        self._device_driven = device_driven
        self._wants_tools = wants_tools
        # Journal entries of results that were not worth a call of their own: stored with the next step.
        self._unstored: list[Mapping[str, Any]] = []

    @property
    def over(self) -> bool:
        """Whether nothing happens here any more."""
        return self.stage is Stage.OVER

    @property
    def in_step(self) -> bool:
        """Whether a step is stored, or about to be, and its results are not."""
        return self.stage in _IN_STEP

    @property
    def device_driven(self) -> bool:
        """Whether the device works on its own."""
        return self._device_driven

    @property
    def owed_by_device(self) -> bool:
        """Whether the device owes something: results, or the end."""
        return self.in_step or self.stage is Stage.DEVICE_WORKS

    @property
    def task(self) -> Task:
        """The task as the planner sees it."""
        if self._task is None:
            self._remember(Restored())
        return cast(Task, self._task)

    def is_answered_by(self, response_id: str) -> bool:
        """Whether a message of the device with this `prev_response_id` is about the session."""
        return response_id == self.spec.response_id or (self.step is not None and self.step.expects(response_id))

    # -- the task ------------------------------------------------------------------------------------------------------
    def start(self, *, stored: bool) -> Effects:
        """Hand the task to its device. `stored`: it is stored already that this is done."""
        if self.stage is not Stage.NEW:
            return _NOTHING
        self.stage = Stage.HANDED_OVER
        handed_over: Effects = (SendTask(),) if stored else (SendTask(), NoteDispatched())
        return handed_over if self._device_driven else (*handed_over, *self._await_echo())

    def adopt(self, restored: Restored, *, started: bool, now_s: float) -> Effects:
        """Go on with a session that ran over an earlier connection of the device, from its journal.

        `started`: its device took it. What it may not have got is sent once more, under the same id.
        """
        self._remember(restored)
        if self._device_driven:
            self.stage, self.running = (Stage.DEVICE_WORKS if started else Stage.HANDED_OVER), started
            return (SendTask(),) if not started and self._device.recognises_repeats else _NOTHING
        if not started:
            self.stage = Stage.HANDED_OVER
            return (SendTask(), *self._await_echo())
        if restored.act is None:
            return self._plan()
        self.running = True
        return self._act(self._make_step(restored.act, restored.response_id), now_s)

    def echo(self) -> Effects:
        """The device has repeated the task: it is ready for commands."""
        self.echoed = True
        return self.echo_late()

    def echo_late(self) -> Effects:
        """The device does not repeat the task: the commands are sent anyway."""
        if self.stage is Stage.HANDED_OVER and not self._device_driven:
            return self._plan()
        return _NOTHING

    def _await_echo(self) -> Effects:
        return (AwaitEcho(),) if self._device.echoes and not self.echoed else self._plan()

    # -- the planner ---------------------------------------------------------------------------------------------------
    def planned(
        self, answer: Act | Finish, response_id: str, event: dict[str, Any] | None, shown: Sequence[Any] = ()
    ) -> Effects:
        """The planner has decided. `event` says what that cost, if it cost anything.

        A step is sent under `response_id`; `shown` are its commands as everybody may see them.
        """
        if self.stage is not Stage.PLANNING:
            return _NOTHING
        spent = {} if event is None else _spent(self.task.tokens)
        if isinstance(answer, Finish):
            if event is None:
                return self._finished(answer)
            self.stage, self._finish = Stage.STORING_PLAN, answer
            return (Store(None, (event,), fields=spent),)
        self._make_step(answer, response_id)
        self.stage = Stage.STORING_STEP
        commands = {"event": "commands", "response_id": response_id, "actions": list(shown)}
        journal = [*self._unstored, act_entry(answer, response_id)]
        self._unstored = []
        events = (commands,) if event is None else (event, commands)
        return (Store(SessionState.RUNNING, events, journal, spent),)

    def number(self, act: Act) -> Act:
        """The planner's step, each of its commands with an id that is its own in the session."""
        return numbered(act, len(self.task.turns) + 1)

    def stored(self, now_s: float) -> Effects:
        """What was to be stored is stored."""
        if self.stage is Stage.STORING_STEP and self.step is not None:
            return self._act(self.step, now_s)
        if self.stage is Stage.STORING_RESULTS:
            return self._plan()
        if self.stage is Stage.STORING_PLAN:
            return self._finished(self._finish)
        return _NOTHING

    def _plan(self) -> Effects:
        self.stage, self.running = Stage.PLANNING, True
        return (Plan(),)

    def _finished(self, finish: Finish) -> Effects:
        state = SessionState.COMPLETED if finish.error is None else SessionState.FAILED
        return self._end(End(state, finish.result, finish.error))

    def _remember(self, restored: Restored) -> None:
        spec = self.spec
        self._task = Task(
            spec.request,
            self.platform.name,
            self.platform.prompt,
            self.names.agent_name,
            spec.commands,
            spec.metadata,
            turns=list(restored.turns),
            tokens=restored.tokens,
        )
        for turn in restored.turns:
            self.names = focused(self.platform.focus, self.names, turn.calls, turn.results)

    # -- a step --------------------------------------------------------------------------------------------------------
    def _make_step(self, act: Act, response_id: str) -> Step:
        single, limit_s = self._device.single_commands, self._device.command_limit_s
        step = self.step = Step(act, response_id, self.names, single=single, limit_s=limit_s)
        return step

    def _act(self, step: Step, now_s: float) -> Effects:
        self.stage, self._acting_since_s = Stage.ON_DEVICE, now_s
        return self._send_next(step, now_s)

    def _send_next(self, step: Step, now_s: float) -> Effects:
        message = step.next()
        if message is not None:
            return (Send(message),)
        results, self.step = step.results, None
        event = {
            "event": "results",
            "response_id": step.response_id,
            "results": [shortened(r) for r in results],
            "took_ms": int((now_s - self._acting_since_s) * 1000),
        }
        self.task.turns.append(Turn(step.act.calls, results, step.act.text))
        self.names = focused(self.platform.focus, self.names, step.act.calls, results)
        if self._wants_tools:
            # A model takes its time: results that were lost meanwhile could not be asked for again.
            self.stage = Stage.STORING_RESULTS
            return (Store(None, (event,), [results_entry(results)]),)
        # The planner goes on, or ends, at once: the results are stored with that.
        self._unstored = [results_entry(results)]
        return (Note(event), *self._plan())

    # -- the device ----------------------------------------------------------------------------------------------------
    def results(self, message: ClientMessage, now_s: float) -> Effects | None:
        """`command_results` of the device. None if nothing waits for them."""
        if self._device_driven:
            return self._report(message)
        step = self.step
        if self.stage is not Stage.ON_DEVICE or step is None or not step.expects(message.prev_response_id or ""):
            return None
        return self._send_next(step, now_s) if step.answer(message) else _NOTHING

    def _report(self, message: ClientMessage) -> Effects | None:
        if message.status in _OVER:
            return self.device_ended(message)
        if self.stage is Stage.DEVICE_WORKS:
            return (Note(progress_of(message)),)
        if self.stage is Stage.OVER:
            return None
        # In NEW, too: a device that is back may have got the task over its last connection.
        self.stage, self.running = Stage.DEVICE_WORKS, True
        # Stored at once: it shows that the device took the task.
        return (Store(SessionState.RUNNING, (progress_of(message),)),)

    def device_ended(self, message: ClientMessage) -> Effects:
        """The device says that the session is over from its side; any other status is ignored."""
        if message.status not in _OVER:
            return _NOTHING
        state, result, error = outcome_of(message)
        return self._end(End(state, result, error, tell_device=False))

    def unanswered(self, limit_s: float) -> Effects:
        """The device has not answered commands in time."""
        if self.stage is not Stage.ON_DEVICE or self.step is None:
            return _NOTHING
        tools = ", ".join(f"'{name[:NAME_CHARS]}'" for name in self.step.awaited_tools[:10])
        return self.failed(f"The device took {tools} and did not answer within {limit_s:g} s")

    # -- the end -------------------------------------------------------------------------------------------------------
    def deadline(self) -> Effects:
        """The session's time has passed. That counts over whatever connection it is driven."""
        error = f"Task timed out after {self.spec.timeout_s:g} s"
        return self._end(End(SessionState.TIMED_OUT, None, error, fenced=False))

    def failed(self, error: str) -> Effects:
        """The session cannot go on."""
        return self._end(End(SessionState.FAILED, None, error))

    def stopped(self) -> None:
        """It ended elsewhere, goes on elsewhere, or is not stored any more: nothing happens here from now on."""
        self.stage = Stage.OVER

    def _end(self, end: End) -> Effects:
        if self.stage is Stage.OVER:
            return _NOTHING
        self.stage = Stage.OVER
        return (end,)


def _spent(tokens: Tokens) -> dict[str, str]:
    return {"prompt_tokens": str(tokens.prompt), "completion_tokens": str(tokens.completion)}
