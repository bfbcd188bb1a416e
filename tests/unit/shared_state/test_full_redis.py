"""A Redis that has reached `maxmemory`: what holds the cluster together is written all the same, what is new is not."""

from collections.abc import AsyncIterator

import pytest

from aip_cluster.protocol.ids import now_ms
from shared_state import State
from shared_state.clients import Registration
from shared_state.delay_queue import DueKind
from shared_state.errors import StateFull
from shared_state.inbox import SessionRef
from shared_state.keys import new_session_id
from shared_state.sessions import Ended, Ending, Session, SessionState
from tests.support.backends import Backend
from tests.support.redis_server import RedisServer

DEVICE = Registration("dev", "node-a", "conn-1", "device", since_ms=1)
LARGE = "x" * 200_000


@pytest.fixture
async def full(own_redis: RedisServer) -> AsyncIterator[State]:
    """A state with a device and two sessions of it under way; from then on Redis takes no more."""
    backend = Backend("redis", own_redis.url)
    state = await backend.state_of_nodes("node-a")
    await state.clients.register(DEVICE)
    yield state
    set_maxmemory(own_redis, 0)
    await backend.close()


def set_maxmemory(server: RedisServer, value: int) -> None:
    with server.client() as client:
        client.config_set("maxmemory", value)


def fill(server: RedisServer) -> None:
    set_maxmemory(server, 1)


async def started(state: State) -> Session:
    session_id, created_ms = new_session_id("dev"), now_ms()
    session = Session(
        session_id=session_id,
        client_id="dev",
        task_name=session_id,
        request="work",
        planner="device",
        created_ms=created_ms,
        deadline_ms=created_ms + 60_000,
        timeout_s=60.0,
    )
    await state.sessions.create(session)
    ref = SessionRef(session_id, session.deadline_ms, created_ms)
    await state.inbox.post("dev", b"task", session=ref)
    return session


async def test_a_lease_is_renewed_on_a_full_redis(full: State, own_redis: RedisServer) -> None:
    fill(own_redis)
    assert (await full.nodes.renew("node-a", {"sessions": 1})).held
    assert "node-b" in (await full.nodes.renew("node-b", {})).live


async def test_the_dead_are_settled_on_a_full_redis(full: State, own_redis: RedisServer) -> None:
    fill(own_redis)
    assert await full.nodes.try_reap("node-a")
    assert not await full.nodes.try_reap("node-b")
    await full.nodes.reaped("node-a")
    assert await full.nodes.try_reap("node-b")


async def test_devices_register_are_kept_and_leave_on_a_full_redis(full: State, own_redis: RedisServer) -> None:
    fill(own_redis)
    await full.clients.register(Registration("new", "node-a", "conn-2", "device", since_ms=1))
    assert sorted(await full.clients.online_ids()) == ["dev", "new"]
    assert await full.clients.touch("dev", "conn-1", features=frozenset({"deduplicates"}))
    await full.clients.note_seen("node-a", {"dev": 5})
    assert (await full.clients.on_node("node-a"))["dev"] == 5
    assert (await full.clients.leave("dev", "conn-1", away_s=5.0)).held


async def test_what_is_due_is_looked_at_on_a_full_redis(full: State, own_redis: RedisServer) -> None:
    await full.delay_queue.add(DueKind.CLIENT, "dev", 0.0)
    fill(own_redis)
    assert [item.item_id for item in await full.delay_queue.claim()] == ["dev"]
    await full.delay_queue.add(DueKind.CLIENT, "dev", 5.0)


@pytest.mark.parametrize("settled", [True, False])
async def test_a_small_end_is_stored_on_a_full_redis(full: State, own_redis: RedisServer, settled: bool) -> None:
    session = await started(full)
    fill(own_redis)
    await full.sessions.advance(session.session_id, SessionState.RUNNING, event={"event": "step"}, journal=[{"a": 1}])
    assert await full.sessions.watch(session.session_id, "node-a") is SessionState.RUNNING
    client_id = "dev" if settled else ""
    ended = await full.sessions.end(Ending(session.session_id, SessionState.COMPLETED, "done", client_id=client_id))
    assert isinstance(ended, Ended)
    found = await full.sessions.find(session.session_id)
    assert found is not None
    assert (found.state, found.result) == (SessionState.COMPLETED, "done")
    await full.inbox.post("dev", b"ended")


async def test_a_large_end_waits_on_a_full_redis_and_nothing_of_it_is_written(
    full: State, own_redis: RedisServer
) -> None:
    session = await started(full)
    fill(own_redis)
    with pytest.raises(StateFull, match="Redis is out of memory"):
        await full.sessions.end(Ending(session.session_id, SessionState.COMPLETED, LARGE, client_id="dev"))
    found = await full.sessions.find(session.session_id)
    assert found is not None
    assert found.state is SessionState.CREATED


async def test_a_new_session_is_refused_on_a_full_redis(full: State, own_redis: RedisServer) -> None:
    fill(own_redis)
    with pytest.raises(StateFull):
        await started(full)


async def test_what_waits_is_refused_before_new_tasks_are_and_both_before_redis_is_full(
    full: State, own_redis: RedisServer
) -> None:
    with own_redis.client() as client:
        used = int(client.info("memory")["used_memory"])
    seen = []
    for share in (0.5, 0.92, 0.97):
        set_maxmemory(own_redis, int(used / share))
        await full.memory.look()
        refused = []
        for waits in (True, False):
            try:
                full.memory.check(waits=waits)
            except StateFull:
                refused.append(waits)
        seen.append(refused)
    assert seen == [[], [True], [True, False]]


async def test_a_redis_without_a_bound_refuses_nothing(full: State, own_redis: RedisServer) -> None:
    set_maxmemory(own_redis, 0)
    await full.memory.look()
    full.memory.check(waits=True)
