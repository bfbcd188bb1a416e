"""The Lua scripts: documented, complete, and each within one slot of a Redis Cluster."""

import re
from collections.abc import Awaitable, Sequence
from importlib.resources import files
from typing import Any

import pytest
from redis.crc import key_slot

from shared_state import State
from shared_state.batches import BatchItem
from shared_state.delay_queue import DueKind
from shared_state.idempotency import Answered
from shared_state.keys import new_session_id
from shared_state.redis.connection import Connection
from shared_state.redis.lua import script_names, script_source
from shared_state.sessions import TERMINAL, Behind, Ending, SessionState
from tests.support.backends import Backend
from tests.support.records import a_registration, a_session, end_session, ref_of

SCRIPTS = script_names()


def _text(name: str) -> str:
    return (files("shared_state.scripts") / f"{name}.lua").read_text(encoding="utf-8")


def _header(name: str) -> str:
    lines: list[str] = []
    for line in _text(name).splitlines():
        if not line.startswith("--"):
            break
        lines.append(line)
    return "\n".join(lines)


def _documented(name: str, array: str) -> list[int]:
    """The numbers that the header gives to KEYS or ARGV; `4..` counts as its first."""
    section = re.search(rf"^-- {array}((?:.|\n)*?)(?=^-- (?:KEYS|ARGV|reply)|\Z)", _header(name), re.MULTILINE)
    assert section is not None
    return [int(n) for n in re.findall(r"(?:^|\s)(\d+)(?:\.\.)?\s+[a-z'(\d]", section[1])]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_header_says_what_goes_in_and_what_comes_out(name: str) -> None:
    header = _header(name)
    assert re.match(r"-- [A-Z].*\.", header), "a sentence first"
    assert re.search(r"^-- KEYS +1 ", header, re.MULTILINE)
    assert re.search(r"^-- reply ", header, re.MULTILINE)
    assert ("ARGV" in _text(name).replace(header, "")) == bool(re.search(r"^-- ARGV +1 ", header, re.MULTILINE))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_key_and_argument_that_is_used_is_documented(name: str) -> None:
    body = _text(name).replace(_header(name), "")
    for array in ("KEYS", "ARGV"):
        used = {int(n) for n in re.findall(rf"{array}\[(\d+)\]", body)}
        used |= {int(n) for n in re.findall(rf"unpack\({array}, (\d+)\)", body)}
        if used:
            assert used <= set(_documented(name, array)), array


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_key_is_built_inside_a_script(name: str) -> None:
    """Only declared keys are touched: Redis Cluster routes by them."""
    text = script_source(name).decode()
    calls = re.findall(r"redis\.call\('(\w+)',\s*([^,)]+)", text)
    assert calls or "redis.call('TIME')" in text
    for command, first in calls:
        if command == "PUBLISH":
            continue
        assert re.fullmatch(r"KEYS\[(\d+|i( \+ \d+)?)\]", first.strip()), f"{command} {first}"


def test_scripts_and_clients_know_the_same_terminal_states() -> None:
    """A new terminal state is written in two places; this finds the one that was forgotten."""
    assert set(re.findall(r"'(\w+)'", _text("_terminal"))) == TERMINAL


@pytest.mark.parametrize("name", SCRIPTS)
def test_terminal_states_are_listed_in_one_file_only(name: str) -> None:
    assert "'timed_out'" not in _text(name)


async def _every_operation(state: State) -> None:
    """Run everything that may run a script."""
    await state.nodes.renew("node-a", {})
    await state.nodes.live()
    registration = a_registration("device-1", "node-a", profile={"platform": "linux"})
    await state.clients.register(registration)
    await state.clients.note_seen("node-a", {"device-1": 1})
    await state.clients.touch("device-1", registration.connection_id, profile={})
    session = a_session()
    await state.sessions.claim_task(session.task_name, session.session_id, token="t", span_s=60)
    await state.sessions.create(session)
    await state.inbox.post("device-1", b"task", session=ref_of(session))
    await state.inbox.post("device-1", b"frame")
    await state.inbox.post("device-1", b"frame", message_id="m")
    await state.sessions.watch(session.session_id, "node-a")
    await state.sessions.watch(session.session_id, "node-a", events=True)
    await state.sessions.advance(session.session_id, SessionState.DISPATCHED, event={"event": "x"}, node_id="node-a")
    await state.sessions.requeue(session.session_id, 1)
    beside = a_session(new_session_id("device-1"), client_id="device-1")
    assert await state.session_creator.start(beside, claims=state.session_creator.may_claim)
    assert len(await state.session_creator.waiting("device-1", but=())) == 1
    behind = Behind(stamps={"dispatched_ms": 1}, events=[(1, b"{}")])
    await state.sessions.advance(beside.session_id, SessionState.RUNNING, behind=behind)
    await end_session(state, beside.session_id, end_id="e", client_id="device-1")
    simple = [a_session(new_session_id(device), client_id=device) for device in ("device-1", "device-2")]
    for one in simple:
        await state.waiting.hold(one)
        await state.session_creator.start(one, wait_s=1.0)
        await state.waiting.free(one.client_id, [one.session_id])
    for one in simple:
        ending = Ending(one.session_id, SessionState.COMPLETED, client_id=one.client_id)
        state.end_batch.put(ending, deadline_ms=one.deadline_ms, done=lambda ended: None)
    await state.end_batch.flush()
    await state.sessions.page(client_id=None, limit=1)
    await state.delay_queue.add(DueKind.CLIENT, "device-1", 0)
    await state.delay_queue.done((await state.delay_queue.claim())[0])
    await end_session(state, session.session_id, SessionState.COMPLETED, result={"a": 1})
    await state.sessions.claim_task(session.task_name, new_session_id("device-1"), token="u", span_s=60)
    await state.sessions.release_task(session.task_name, "u")
    await state.nodes.try_reap("node-a")
    await state.nodes.reaped("node-a")
    await state.batches.note("batch-1", 0, BatchItem("device-1"))
    await state.idempotency.claim("k", "request", "holder", b"{}")
    await state.idempotency.give_up("k", "holder")
    await state.idempotency.answer("k", "holder", Answered(200, b"{}"))
    await state.idempotency.forget("k", "holder")
    await state.clients.reap("device-1", "node-b")
    await state.clients.leave("device-1", registration.connection_id)
    await state.clients.expire("device-1")


async def test_all_keys_that_one_call_gives_share_a_slot(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[list[str]]] = {}
    genuine = Connection.script

    def watched(
        self: Connection, name: str, keys: Sequence[str], args: Sequence[Any] = (), **options: Any
    ) -> Awaitable[Any]:
        seen.setdefault(name, []).append(list(keys))
        return genuine(self, name, keys, args, **options)

    monkeypatch.setattr(Connection, "script", watched)
    await _every_operation(backend.state())
    assert sorted(seen) == SCRIPTS, "every script is run by some operation here"
    one_server = backend.state().connection.one_server
    for name, calls in seen.items():
        for keys in calls:
            # Where there are no slots, a start claims the name of its task, too, and many devices' sessions end as one.
            if name == "session_ends" and one_server:
                continue
            told = keys[:4] if name == "session_start" and one_server else keys
            assert len({key_slot(key.encode()) for key in told}) == 1, f"{name}: {keys}"
        if name == "session_ends":
            assert max(len(keys) for keys in calls) == (4 if one_server else 2)
            continue
        most = len(_documented(name, "KEYS")) - (name == "session_start" and not one_server)
        assert max(len(keys) for keys in calls) == most, name


async def test_scripts_survive_a_script_flush(real_backend: Backend) -> None:
    """Redis forgets scripts when it restarts or fails over; nobody must notice."""
    state = real_backend.state()
    await state.nodes.renew("node-a", {})
    await state.connection.command("SCRIPT", "FLUSH")
    assert (await state.nodes.renew("node-a", {})).held is True


async def test_a_script_flush_in_the_midst_of_a_batch_repeats_only_what_did_not_run(real_backend: Backend) -> None:
    state = real_backend.state()
    await _every_operation(state)
    key = f"{state.keys.prefix}:count"
    await state.connection.command("SCRIPT", "FLUSH")
    # All of one turn: one pipeline.
    calls = [state.connection.command("INCR", key), state.nodes.renew("node-a", {}), state.nodes.live()]
    counted, lease, live = [await c for c in calls]
    assert counted == 1
    assert lease.held is True
    assert live == ["node-a"]
    assert await state.connection.command("GET", key) == b"1"
    await state.connection.command("DEL", key)
