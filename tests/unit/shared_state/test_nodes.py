"""Leases: who is alive, by the clock of Redis."""

import asyncio

from shared_state import State
from shared_state.nodes import NodeInfo
from tests.support.backends import Backend
from tests.support.wait import until

SHORT_LEASE_S = 0.2


async def test_a_node_is_alive_once_it_has_renewed(state: State) -> None:
    assert await state.nodes.live() == []
    await state.nodes.renew("node-a", {})
    assert await state.nodes.live() == ["node-a"]


async def test_the_first_renewal_finds_no_lease_held(state: State) -> None:
    lease = await state.nodes.renew("node-a", {})
    assert lease.held is False
    assert lease.live == {"node-a"}
    assert lease.dead == ()


async def test_a_renewal_in_time_finds_the_lease_held(state: State) -> None:
    await state.nodes.renew("node-a", {})
    assert (await state.nodes.renew("node-a", {})).held is True


async def test_a_renewal_tells_of_the_other_live_nodes(state: State) -> None:
    await state.nodes.renew("node-a", {})
    assert (await state.nodes.renew("node-b", {})).live == {"node-a", "node-b"}


async def test_a_lease_that_is_not_renewed_ends(backend: Backend) -> None:
    state = backend.state(lease_ttl_s=SHORT_LEASE_S)
    await state.nodes.renew("node-a", {})

    async def gone() -> bool:
        return await state.nodes.live() == []

    await until(gone, "the lease has ended")


async def test_a_renewal_tells_of_the_dead(backend: Backend) -> None:
    """A node whose lease ran out is dead, not forgotten, until somebody settles it."""
    short, long = backend.state(lease_ttl_s=SHORT_LEASE_S), backend.state(lease_ttl_s=60.0)
    await short.nodes.renew("node-a", {})

    async def told() -> bool:
        return (await long.nodes.renew("node-b", {})).dead == ("node-a",)

    await until(told, "node-a is reported dead")
    assert await long.nodes.live() == ["node-b"]


async def test_a_node_that_was_away_too_long_finds_its_lease_gone(backend: Backend) -> None:
    state = backend.state(lease_ttl_s=SHORT_LEASE_S)
    await state.nodes.renew("node-a", {})

    async def dead() -> bool:
        return await state.nodes.live() == []

    await until(dead, "the lease has ended")
    assert (await state.nodes.renew("node-a", {})).held is False
    assert (await state.nodes.renew("node-a", {})).held is True


async def test_the_lease_is_gone_when_redis_lost_its_data(backend: Backend) -> None:
    state = backend.state()
    await state.nodes.renew("node-a", {})
    await state.connection.command("DEL", state.keys.leases())
    assert (await state.nodes.renew("node-a", {})).held is False


async def test_a_released_node_is_neither_alive_nor_dead(state: State) -> None:
    await state.nodes.renew("node-a", {"url": "http://a"})
    await state.nodes.release("node-a")
    lease = await state.nodes.renew("node-b", {})
    assert lease.live == {"node-b"}
    assert lease.dead == ()
    assert await state.connection.command("EXISTS", state.keys.node_info("node-a")) == 0


async def test_releasing_twice_is_the_same_as_once(state: State) -> None:
    await state.nodes.renew("node-a", {})
    await state.nodes.release("node-a")
    await state.nodes.release("node-a")
    assert await state.nodes.live() == []


async def test_live_nodes_are_described_as_they_last_said(state: State) -> None:
    await state.nodes.renew("node-b", {"sessions": 1})
    await state.nodes.renew("node-a", {"url": "http://ä"})
    await state.nodes.renew("node-b", {"sessions": 2})
    assert await state.nodes.describe() == [
        NodeInfo("node-a", {"url": "http://ä"}),
        NodeInfo("node-b", {"sessions": 2}),
    ]


async def test_without_nodes_nobody_is_described(state: State) -> None:
    assert await state.nodes.describe() == []


async def test_one_node_at_a_time_settles_the_dead(state: State) -> None:
    attempts = await asyncio.gather(*(state.nodes.try_reap(f"node-{i}") for i in range(20)))
    assert attempts.count(True) == 1
    winner = f"node-{attempts.index(True)}"
    await state.nodes.reaped("somebody else")
    assert await state.nodes.try_reap("node-late") is False
    await state.nodes.reaped(winner)
    assert await state.nodes.try_reap("node-late") is True


async def test_a_reaper_that_died_leaves_its_lock_for_seconds_only(state: State) -> None:
    await state.nodes.try_reap("node-a")
    life_ms = await state.connection.command("PTTL", state.keys.reaper())
    assert 0 < life_ms <= 5_000
