"""The transitions of a session, one row each: in which phase it was, what happened, and what became of it.

A row is played against a whole node, and read from outside: the state that is stored, what its device is sent, and the
error that is kept. However the node is built inside, these rows hold.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from aip_cluster.protocol import Result, ResultStatus, ServerMessage
from node.app import Node
from node.sessions.resumption import NOT_REPEATABLE
from node.sessions.service import CANCELLED, DEVICE_GONE
from shared_state.sessions import SessionState
from tests.support.asgi import Device, rest
from tests.support.features import OURS
from tests.support.tasks import COMMANDS, dispatch, next_of, state_is
from tests.unit.node.conftest import MakeNode

OK, FAILED = Result(status=ResultStatus.SUCCESS, result=1), Result(status=ResultStatus.FAILURE, error="no")
TIMEOUT_S = 1.0
SHORT = f"Task timed out after {TIMEOUT_S:g} s"

S = SessionState


@dataclass
class Played:
    """A session at some point of its life, and the two ends of the socket that it runs over."""

    node: Node
    device: Device
    session_id: str
    # What the device got last: its task, or its commands.
    last: ServerMessage
    # Over which it comes back, and goes on listening.
    back: Device | None = None
    seen: list[str] = field(default_factory=list)

    def reply(self, **fields: Any) -> None:
        """Something that the device says of the session."""
        self.device.send(session_id=self.session_id, **fields)


Phase = Callable[[MakeNode, bool], Awaitable[Played]]
Input = Callable[[Played], Awaitable[None]]


# -- phases --
def _phase(*, autonomous: bool, until: str, echo: bool = False) -> Phase:
    """A phase: `until` which message the device has come."""

    async def play(make_node: MakeNode, short: bool) -> Played:
        node = await make_node(echo_wait_s=60.0 if echo else 0.0, reconnect_grace_s=60.0, tools_timeout_s=0.1)
        features = ("autonomous", *OURS) if autonomous else () if echo else OURS
        device = await Device(node, features=features).__aenter__()
        change: dict[str, Any] = {"task_name": "job", "commands": None if autonomous else COMMANDS}
        sid = await dispatch(node, **change, **({"timeout_s": TIMEOUT_S} if short else {}))
        last = await next_of(device, "task")
        if until == "command":
            last = await next_of(device, "command")
        elif until == "progress":
            device.send(type="command_results", status="continue", session_id=sid, messages=["begun"])
            await state_is(node, sid, S.RUNNING)
        return Played(node, device, sid, last)

    return play


def _then(phase: Phase, happens: Input, state: SessionState) -> Phase:
    """The phase after that: once something more has happened, and is stored."""

    async def play(make_node: MakeNode, short: bool) -> Played:
        played = await phase(make_node, short)
        await happens(played)
        await state_is(played.node, played.session_id, state)
        return played

    return play


# -- what happens --
async def echo(p: Played) -> None:
    """As UFO's client does: without the session's id."""
    p.device.send(type="task", status="continue", session_id=None, task_name="job", request="do it")


def results(*given: Result, prev: str | None = None) -> Input:
    """The answer to the commands that are under way."""

    async def happens(p: Played) -> None:
        p.reply(
            type="command_results",
            prev_response_id=prev or p.last.response_id,
            action_results=[r.model_dump(mode="json") for r in given],
        )

    return happens


def says(kind: str, status: str, **fields: Any) -> Input:
    """Any other message of the device."""

    async def happens(p: Played) -> None:
        p.reply(type=kind, status=status, **fields)

    return happens


async def deadline(p: Played) -> None:
    """Nothing is said until the time is over."""


async def cancel(p: Played) -> None:
    """Over REST."""
    async with rest(p.node) as api:
        assert (await api.post(f"/api/sessions/{p.session_id}/cancel")).status_code == 200


async def socket_lost(p: Played) -> None:
    """It breaks."""
    await p.device.cut()


async def goodbye(p: Played) -> None:
    """The device closes it."""
    await p.device.close()


def resumed(*features: str) -> Input:
    """The device comes back: with the memory that `features` say."""

    async def happens(p: Played) -> None:
        p.back = await Device(p.node, features=features).__aenter__()

    return happens


async def nothing(p: Played) -> None:
    """The phase itself."""


HANDED_OVER = _phase(autonomous=False, until="task", echo=True)
COMMANDED = _phase(autonomous=False, until="command")
OWN_TASK = _phase(autonomous=True, until="task")
OWN_WORK = _phase(autonomous=True, until="progress")
AWAY_HANDED_OVER = _then(HANDED_OVER, socket_lost, S.SUSPENDED)
AWAY_COMMANDED = _then(COMMANDED, socket_lost, S.SUSPENDED)
AWAY_OWN_WORK = _then(OWN_WORK, socket_lost, S.SUSPENDED)
ENDED = _then(COMMANDED, results(OK, OK), S.COMPLETED)


@dataclass(frozen=True)
class Row:
    """What becomes of a session: its state, its error, and what its device is sent from then on."""

    name: str
    phase: Phase
    happens: Input
    state: SessionState
    error: str | None = None
    frames: tuple[str, ...] = ()
    short: bool = False


ROWS = [
    # The task was handed over; its device is to repeat it.
    Row("handed over, echo", HANDED_OVER, echo, S.RUNNING, None, ("command",)),
    Row("handed over, device fails", HANDED_OVER, says("task_end", "failed", error="cannot"), S.FAILED, "cannot"),
    Row("handed over, error frame", HANDED_OVER, says("error", "error", error="broke"), S.FAILED, "broke"),
    Row("handed over, cancel", HANDED_OVER, cancel, S.CANCELLED, CANCELLED, ("task_end",)),
    Row("handed over, deadline", HANDED_OVER, deadline, S.TIMED_OUT, SHORT, ("task_end",), short=True),
    Row("handed over, socket lost", HANDED_OVER, socket_lost, S.SUSPENDED),
    Row("handed over, goodbye", HANDED_OVER, goodbye, S.CANCELLED, DEVICE_GONE),
    # Commands are under way.
    Row("commanded, results", COMMANDED, results(OK, OK), S.COMPLETED, None, ("task_end",)),
    Row("commanded, a failure", COMMANDED, results(OK, FAILED), S.FAILED, "two: no", ("task_end",)),
    Row(
        "commanded, too few results",
        COMMANDED,
        results(OK),
        S.FAILED,
        "two: the device gave no result for this command",
        ("task_end",),
    ),
    Row("commanded, results of nothing", COMMANDED, results(OK, OK, prev="nothing"), S.RUNNING),
    Row("commanded, device ends it", COMMANDED, says("task_end", "completed", result=7), S.COMPLETED),
    Row("commanded, cancel", COMMANDED, cancel, S.CANCELLED, CANCELLED, ("task_end",)),
    Row("commanded, deadline", COMMANDED, deadline, S.TIMED_OUT, SHORT, ("task_end",), short=True),
    Row("commanded, socket lost", COMMANDED, socket_lost, S.SUSPENDED),
    Row("commanded, goodbye", COMMANDED, goodbye, S.CANCELLED, DEVICE_GONE),
    # The device works on its own.
    Row("own task, progress", OWN_TASK, says("command_results", "continue", messages=["half"]), S.RUNNING),
    Row("own task, end", OWN_TASK, says("task_end", "completed", result=7), S.COMPLETED),
    Row("own task, results with an end", OWN_TASK, says("command_results", "completed", result=7), S.COMPLETED),
    Row("own task, failure", OWN_TASK, says("task_end", "failed", error="cannot"), S.FAILED, "cannot"),
    Row("own task, cancel", OWN_TASK, cancel, S.CANCELLED, CANCELLED, ("task_end",)),
    Row("own task, deadline", OWN_TASK, deadline, S.TIMED_OUT, SHORT, ("task_end",), short=True),
    Row("own work, end", OWN_WORK, says("task_end", "completed", result=7), S.COMPLETED),
    Row("own work, socket lost", OWN_WORK, socket_lost, S.SUSPENDED),
    Row("own work, goodbye", OWN_WORK, goodbye, S.CANCELLED, DEVICE_GONE),
    # The device is away, and comes back.
    Row("away before its echo, back", AWAY_HANDED_OVER, resumed(), S.DISPATCHED, None, ("task",)),
    Row("away with commands, back, remembers", AWAY_COMMANDED, resumed(*OURS), S.RUNNING, None, ("command",)),
    Row("away with commands, back, forgot", AWAY_COMMANDED, resumed(), S.FAILED, NOT_REPEATABLE, ("task_end",)),
    Row("away at its own work, back", AWAY_OWN_WORK, resumed("autonomous", *OURS), S.RUNNING),
    Row("away, cancel", AWAY_COMMANDED, cancel, S.CANCELLED, CANCELLED),
    # The first end stands.
    Row("ended, another end", ENDED, says("task_end", "failed", error="late"), S.COMPLETED, None, ("task_end",)),
    Row("ended, results again", ENDED, results(FAILED, FAILED), S.COMPLETED, None, ("task_end",)),
    Row("ended, late echo", ENDED, echo, S.COMPLETED, None, ("task_end",)),
    Row("ended, goodbye", ENDED, goodbye, S.COMPLETED),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_transition(make_node: MakeNode, row: Row) -> None:
    played = await row.phase(make_node, row.short)
    await row.happens(played)
    await state_is(played.node, played.session_id, row.state)
    found = await played.node.state.sessions.find(played.session_id)
    assert found is not None
    assert found.error == row.error
    listening = played.back or played.device
    frames: list[str] = []
    while len(frames) < len(row.frames):
        frames.append(str((await listening.receive()).type))
    assert tuple(frames) == row.frames
    if row.happens not in {socket_lost, goodbye} and (played.back or row.phase is not AWAY_COMMANDED):
        # Nothing more is on its way.
        assert (await listening.ask(type="heartbeat")).type == "heartbeat"
    found = await played.node.state.sessions.find(played.session_id)
    assert found is not None
    assert found.state == row.state, "it stays so"


# -- while a step is being stored --
@dataclass
class Storing:
    """A session whose first step is on its way to Redis, until `stored` is set."""

    played: Played
    stored: asyncio.Event


@pytest.fixture
async def storing(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> Storing:
    """The device has repeated its task; its commands are being stored, and are not sent yet."""
    played = await HANDED_OVER(make_node, False)
    begun, stored = asyncio.Event(), asyncio.Event()
    genuine = played.node.state.sessions.advance

    async def advance(*args: Any, journal: Any = (), **options: Any) -> SessionState:
        if journal:
            begun.set()
            await stored.wait()
        return await genuine(*args, journal=journal, **options)

    monkeypatch.setattr(played.node.state.sessions, "advance", advance)
    await echo(played)
    await begun.wait()
    return Storing(played, stored)


async def test_commands_are_not_sent_before_their_step_is_stored(storing: Storing) -> None:
    device = storing.played.device
    assert (await device.ask(type="heartbeat")).type == "heartbeat"
    storing.stored.set()
    assert (await device.receive()).type == "command"


async def test_a_socket_that_breaks_while_a_step_is_stored_suspends_the_session(storing: Storing) -> None:
    """Whether the step is stored or not, it was never sent: where the device comes back its commands come once."""
    played = storing.played
    cut = asyncio.create_task(played.device.cut())
    await asyncio.sleep(0)
    storing.stored.set()
    await cut
    await state_is(played.node, played.session_id, S.SUSPENDED)
    async with Device(played.node, features=OURS) as back:
        command = await next_of(back, "command")
        back.answer(command, OK, OK)
        await state_is(played.node, played.session_id, S.COMPLETED)
        assert (played.device.count("command", but="list_tools"), back.count("command")) == (0, 1)


async def test_a_session_that_is_cancelled_while_a_step_is_stored_sends_no_commands(storing: Storing) -> None:
    played = storing.played
    await cancel(played)
    storing.stored.set()
    assert (await played.device.receive()).type == "task_end"
    assert (await played.device.ask(type="heartbeat")).type == "heartbeat"
    assert played.device.count("command", but="list_tools") == 0
    await state_is(played.node, played.session_id, S.CANCELLED)
