"""Registrations under concurrency: however many try, one holds the client."""

import asyncio

import pytest

from shared_state.clients import Admitted
from shared_state.errors import AlreadyRegistered
from tests.support.backends import Backend
from tests.support.records import a_registration

RACERS = 200


@pytest.mark.parametrize("held_by_dead_node", [False, True], ids=["free", "held-by-a-dead-node"])
async def test_of_many_that_register_at_once_one_gets_the_client(backend: Backend, held_by_dead_node: bool) -> None:
    nodes = [backend.state(lease_ttl_s=60.0), backend.state(lease_ttl_s=60.0)]
    for i, state in enumerate(nodes):
        await state.nodes.renew(f"node-{i}", {})
    if held_by_dead_node:
        await nodes[0].clients.register(a_registration(node_id="dead"))
    racers = [a_registration(node_id=f"node-{i % 2}") for i in range(RACERS)]
    outcomes = await asyncio.gather(
        *(nodes[i % 2].clients.register(r) for i, r in enumerate(racers)), return_exceptions=True
    )
    won = [r for r, outcome in zip(racers, outcomes, strict=True) if isinstance(outcome, Admitted)]
    assert len(won) == 1
    assert await nodes[0].clients.find("device-1") == won[0]
    assert all(isinstance(outcome, AlreadyRegistered) for outcome in outcomes if not isinstance(outcome, Admitted))


async def test_farewells_of_the_losers_leave_the_winner(backend: Backend) -> None:
    state = backend.state(lease_ttl_s=60.0)
    await state.nodes.renew("node-0", {})
    racers = [a_registration(node_id="node-0") for _ in range(50)]

    async def come_and_go_unless_first(i: int) -> bool:
        try:
            await state.clients.register(racers[i])
        except AlreadyRegistered:
            await state.clients.leave("device-1", racers[i].connection_id)
            return False
        return True

    stayed = await asyncio.gather(*(come_and_go_unless_first(i) for i in range(len(racers))))
    assert stayed.count(True) == 1
    assert await state.clients.find("device-1") == racers[stayed.index(True)]
