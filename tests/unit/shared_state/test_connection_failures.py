"""The way to Redis while Redis is away: every call is answered, and it heals by itself."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared_state import State
from shared_state.errors import StateUnavailable
from tests.support.records import publish
from tests.support.redis_server import RedisServer
from tests.support.wait import PATIENCE_S, until


@pytest.fixture
async def state(own_redis: RedisServer) -> AsyncIterator[State]:
    state = State(own_redis.url, prefix="t", timeout_s=2.0)
    yield state
    await state.close()


async def _serves(state: State) -> bool:
    try:
        await state.connection.ping()
    except StateUnavailable:
        return False
    return True


async def test_without_redis_every_call_is_unavailable(own_redis: RedisServer, state: State) -> None:
    own_redis.stop()
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(
            state.connection.ping(),
            state.nodes.renew("node-a", {}),
            state.nodes.live(),
            state.clients.find("d"),
            state.clients.online(),
            state.sessions.find("s"),
            state.sessions.page(client_id=None, limit=1),
            state.inbox.read("d"),
            state.events.tail(),
            publish(state, "node-a", b"x"),
            return_exceptions=True,
        )
    assert [type(o) for o in outcomes] == [StateUnavailable] * len(outcomes)
    assert own_redis.url.removeprefix("unix://") not in "".join(map(str, outcomes))


@pytest.mark.parametrize("in_order", [True, False], ids=["stopped", "killed"])
async def test_calls_succeed_again_by_themselves(own_redis: RedisServer, state: State, in_order: bool) -> None:
    # Several pooled sockets, all of which break.
    await asyncio.gather(*(state.connection.command("ECHO", "x" * 1000) for _ in range(4_000)))
    if in_order:
        own_redis.stop()
    else:
        own_redis.kill()
    assert not await _serves(state)
    await asyncio.to_thread(own_redis.start)
    await until(lambda: _serves(state), "calls succeed again")
    assert (await state.nodes.renew("node-a", {})).held is False


async def test_a_restart_between_two_calls_is_not_noticed(own_redis: RedisServer, state: State) -> None:
    """The pooled socket is stale and the scripts are gone: neither is a reason to fail."""
    await state.nodes.renew("node-a", {})
    own_redis.kill()
    await asyncio.to_thread(own_redis.start)
    assert (await state.nodes.renew("node-a", {})).live == {"node-a"}


async def test_a_redis_that_hangs_is_unavailable_in_time_and_heals(own_redis: RedisServer, state: State) -> None:
    await state.connection.ping()
    with own_redis.client() as control:
        control.execute_command("CLIENT", "PAUSE", 600_000, "ALL")
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(StateUnavailable, match="in time"):
            await state.connection.command("ECHO", "x")
    # A paused server answers nobody, not even an UNPAUSE.
    own_redis.kill()
    await asyncio.to_thread(own_redis.start)
    await until(lambda: _serves(state), "calls succeed again")


async def test_after_a_timeout_no_reply_is_taken_for_another_calls(own_redis: RedisServer) -> None:
    """A reply that came too late must not answer the next call on that socket."""
    state = State(own_redis.url, prefix="t", timeout_s=1.5)
    with own_redis.client() as control:
        for i in range(3):
            control.execute_command("CLIENT", "PAUSE", 600_000, "WRITE")
            with pytest.raises(StateUnavailable):
                await state.connection.command("SET", "t:x", f"late {i}", "PX", 60_000)
            assert await state.connection.command("ECHO", f"mine {i}") == f"mine {i}".encode()
            control.execute_command("CLIENT", "UNPAUSE")
            assert await state.connection.command("SET", "t:y", f"{i}", "PX", 60_000)
    await state.close()


async def test_closing_without_redis_does_not_fail(own_redis: RedisServer) -> None:
    state = State(own_redis.url, prefix="t", timeout_s=1.0)
    await state.connection.ping()
    state.events.start()
    state.events.append("x")
    own_redis.kill()
    async with asyncio.timeout(PATIENCE_S):
        await state.close()
    assert state.events.dropped == 1
