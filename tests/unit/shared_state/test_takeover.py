"""Who may have a client id that is held, or whose holder is away: proofs, generations, and answers that got lost."""

import asyncio

import pytest

from shared_state import State
from shared_state.clients import NO_PROOF, Proof
from shared_state.errors import AlreadyRegistered
from tests.support.backends import Backend
from tests.support.records import a_registration

A, B = "node-a", "node-b"
FIRST = Proof(new_token_hash="one")
SECOND = Proof(shown_token_hash="one", new_token_hash="two")


@pytest.fixture
async def state(backend: Backend) -> State:
    """Two live nodes."""
    return await backend.state_of_nodes(A, B)


async def test_every_registration_has_a_greater_generation(state: State) -> None:
    generations = []
    for _ in range(5):
        registration = a_registration()
        generations.append((await state.clients.register(registration)).generation)
        await state.clients.leave("device-1", registration.connection_id, away_s=60)
    assert generations == sorted(set(generations))


async def test_whoever_shows_the_token_takes_over_at_once(state: State) -> None:
    old, new = a_registration(node_id=A), a_registration(node_id=B)
    first = await state.clients.register(old, proof=FIRST)
    second = await state.clients.register(new, proof=SECOND)
    assert (first.proven, second.proven) == (False, True)
    assert (second.replaced_node, second.replaced_connection) == (A, old.connection_id)
    assert second.generation > first.generation
    found = await state.clients.find("device-1")
    assert found is not None
    assert found.connection_id == new.connection_id


@pytest.mark.parametrize("proof", [NO_PROOF, Proof(shown_token_hash="guess"), Proof(new_token_hash="one")], ids=repr)
async def test_nobody_else_does(state: State, proof: Proof) -> None:
    old = a_registration()
    await state.clients.register(old, proof=FIRST)
    with pytest.raises(AlreadyRegistered) as refused:
        await state.clients.register(a_registration(node_id=B), proof=proof)
    assert refused.value.connection_id == old.connection_id


async def test_no_token_is_not_the_token_of_a_client_that_was_given_none(state: State) -> None:
    await state.clients.register(a_registration())
    with pytest.raises(AlreadyRegistered):
        await state.clients.register(a_registration(node_id=B), proof=NO_PROOF)


async def test_a_token_is_of_its_kind_of_client(state: State) -> None:
    await state.clients.register(a_registration(), proof=FIRST)
    with pytest.raises(AlreadyRegistered):
        await state.clients.register(a_registration(node_id=B, client_type="constellation"), proof=SECOND)


async def test_a_token_counts_again_if_the_answer_that_brought_the_next_one_got_lost(state: State) -> None:
    """However often; but not once the next one was shown."""
    await state.clients.register(a_registration(), proof=FIRST)
    for n in range(3):
        lost = Proof(shown_token_hash="one", new_token_hash=f"lost-{n}")
        assert (await state.clients.register(a_registration(node_id=B), proof=lost)).proven
    arrived = Proof(shown_token_hash="lost-2", new_token_hash="four")
    assert (await state.clients.register(a_registration(), proof=arrived)).proven
    with pytest.raises(AlreadyRegistered):
        await state.clients.register(a_registration(node_id=B), proof=SECOND)


async def test_the_same_credential_alone_takes_nothing_from_a_holder_however_old_it_is(state: State) -> None:
    """Many clients may share a key: any of them could take over any device, and be sent its secrets."""
    key = Proof(credential="key")
    holder = a_registration()
    await state.clients.register(holder, proof=key)
    # As if it had been registered an hour ago.
    generation = await state.connection.command("HGET", state.keys.registration("device-1"), "generation")
    old = int(generation) - 3_600_000_000
    await state.connection.command("HSET", state.keys.registration("device-1"), "generation", old)
    with pytest.raises(AlreadyRegistered) as refused:
        await state.clients.register(a_registration(node_id=B), proof=key)
    assert refused.value.connection_id == holder.connection_id


@pytest.mark.parametrize(
    ("proof", "welcome"),
    [
        (Proof(credential="key"), True),
        (Proof(credential="another"), False),
        (NO_PROOF, False),
        (Proof(shown_token_hash="one", credential="another"), True),
    ],
    ids=["same key", "another key", "none", "token"],
)
async def test_of_a_client_that_is_away_the_id_is_kept_for_its_credential(
    state: State, proof: Proof, *, welcome: bool
) -> None:
    old = a_registration()
    await state.clients.register(old, proof=Proof(new_token_hash="one", credential="key"))
    await state.clients.leave("device-1", old.connection_id, away_s=60)
    if welcome:
        assert (await state.clients.register(a_registration(node_id=B), proof=proof)).replaced_connection == ""
        return
    with pytest.raises(AlreadyRegistered) as refused:
        await state.clients.register(a_registration(node_id=B), proof=proof)
    assert (refused.value.node_id, refused.value.connection_id) == ("", "")


async def test_a_holder_that_was_found_to_be_gone_gives_way_and_no_other(state: State) -> None:
    gone, newer = a_registration(), a_registration(node_id=B)
    await state.clients.register(gone)
    await state.clients.register(newer, replace=gone.connection_id)
    with pytest.raises(AlreadyRegistered) as refused:
        await state.clients.register(a_registration(node_id=A), replace=gone.connection_id)
    assert refused.value.connection_id == newer.connection_id


async def test_a_repeated_registration_is_answered_as_the_first_time(state: State) -> None:
    old, new = a_registration(), a_registration(node_id=B)
    await state.clients.register(old, proof=FIRST)
    first = await state.clients.register(new, proof=SECOND)
    assert await state.clients.register(new, proof=SECOND) == first


async def test_a_claim_replaces_nothing_newer_also_where_the_newer_node_seems_dead(state: State) -> None:
    """A node that was frozen, back while nobody else holds a lease: its socket's client had moved on."""
    frozen = a_registration(node_id=A)
    old = await state.clients.register(frozen, proof=FIRST)
    moved = a_registration(node_id="node-without-lease")
    await state.clients.register(moved, proof=SECOND)
    with pytest.raises(AlreadyRegistered) as refused:
        await state.clients.register(frozen, generation=old.generation)
    assert refused.value.connection_id == moved.connection_id
    await state.clients.leave("device-1", moved.connection_id, away_s=60)
    with pytest.raises(AlreadyRegistered):
        await state.clients.register(frozen, generation=old.generation)


async def test_a_claim_takes_back_what_was_settled_or_lost(state: State) -> None:
    frozen = a_registration(node_id=A)
    old = await state.clients.register(frozen)
    await state.clients.reap("device-1", A, away_s=60)
    again = await state.clients.register(frozen, generation=old.generation)
    assert again.generation > old.generation
    await state.connection.command("DEL", state.keys.registration("device-1"))
    lost = await state.clients.register(frozen, generation=again.generation)
    assert lost.generation > again.generation


@pytest.mark.parametrize("away", [False, True])
async def test_a_claim_replaces_a_past_that_a_failover_brought_back(state: State, *, away: bool) -> None:
    """The client had moved on; what was stored of that went with the old primary."""
    registered = state.keys.registration("device-1")
    before = a_registration(node_id=B)
    await state.clients.register(before, proof=Proof(new_token_hash="one", credential="key"))
    if away:
        await state.clients.leave("device-1", before.connection_id, away_s=60)
    past = await state.connection.command("HGETALL", registered)
    moved = a_registration(node_id=A)
    admitted = await state.clients.register(moved, proof=Proof(shown_token_hash="one", new_token_hash="two"))
    await state.connection.command("DEL", registered)
    await state.connection.command("HSET", registered, *(x for pair in past.items() for x in pair))
    claimed = await state.clients.register(moved, proof=Proof(new_token_hash="two"), generation=admitted.generation)
    assert claimed.generation > admitted.generation
    found = await state.clients.find("device-1")
    assert found is not None
    assert found.connection_id == moved.connection_id
    with pytest.raises(AlreadyRegistered):
        await state.clients.register(before, generation=admitted.generation - 1)


async def test_of_many_who_show_the_same_token_the_last_one_holds_the_client(state: State) -> None:
    """Each takes over from the one before: the registry names one, and its generation is the greatest."""
    await state.clients.register(a_registration(), proof=FIRST)
    racers = [a_registration(node_id=(A, B)[i % 2]) for i in range(40)]
    proof = Proof(shown_token_hash="one", new_token_hash="next")
    admitted = await asyncio.gather(*(state.clients.register(r, proof=proof) for r in racers))
    found = await state.clients.find("device-1")
    assert found is not None
    newest = max(range(len(racers)), key=lambda i: admitted[i].generation)
    assert found.connection_id == racers[newest].connection_id
    assert len({a.generation for a in admitted}) == len(racers)


async def test_no_token_is_in_what_can_be_read_of_a_client(state: State) -> None:
    await state.clients.register(a_registration(profile={"platform": "linux"}), proof=Proof(new_token_hash="h4sh"))
    found = await state.clients.get("device-1")
    assert "h4sh" not in repr(found)
