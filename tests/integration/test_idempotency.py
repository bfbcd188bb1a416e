"""`Idempotency-Key` on real nodes: many at once, an answer that got lost, a node that died after accepting."""

import asyncio

import httpx
import pytest

from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, Json, Node, accepted, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import eventually

pytestmark = pytest.mark.integration

ECHO = command("echo")


async def send(node: Node, key: str, client_id: str, **fields: object) -> httpx.Response:
    body: Json = {"client_id": client_id, "request": "do as told", "commands": [ECHO], **fields}
    return await node.post("/api/dispatch", body, **{"Idempotency-Key": key})


async def test_fifty_at_once_on_three_nodes_make_one_session(cluster: Cluster, guests: Guests) -> None:
    device, key = await guests.device(cluster.a), unique("key")

    answers = await asyncio.gather(*(send(cluster.nodes[i % 3], key, device.client_id) for i in range(50)))

    assert {a.status_code for a in answers} == {200}
    (session_id,) = {a.json()["session_id"] for a in answers}
    assert (await cluster.b.done(answers[0].json()["task_name"]))["state"] == "completed"
    assert [s["session_id"] for s in await cluster.c.sessions_of(device.client_id)] == [session_id]
    assert device.count("task") == 1


async def test_without_the_key_fifty_at_once_make_fifty_sessions(cluster: Cluster, guests: Guests) -> None:
    """What the key is for: this is what a client that repeats after a lost answer does to its device."""
    device = await guests.device(cluster.a)

    answers = await asyncio.gather(*(cluster.nodes[i % 3].dispatch(device.client_id, ECHO) for i in range(50)))

    assert len({a["session_id"] for a in answers}) == 50


async def test_after_the_node_that_accepted_was_killed_another_gives_the_same_session(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device, key = await guests.device(cluster.b), unique("key")
    first = accepted(await send(cluster.a, key, device.client_id))

    cluster.a.process.kill()
    again = await send(cluster.b, key, device.client_id)

    assert accepted(again) == first
    assert again.headers["idempotency-replayed"] == "true"
    assert (await send(cluster.b, key, device.client_id, request="another")).status_code == 409
    assert (await cluster.b.done(first["task_name"]))["state"] == "completed"
    assert device.count("task") == 1
    assert cluster.redis.immortal_keys() == []


async def test_after_a_node_that_was_killed_while_it_dispatched_the_repetition_is_still_the_only_one(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    """Killed at some moment of twenty dispatches: each key has one session, whichever node made it."""
    cluster = own_cluster(2)
    device = await guests.device(cluster.b)
    keys = [unique("key") for _ in range(20)]
    posts = [asyncio.create_task(send(cluster.a, key, device.client_id)) for key in keys]
    await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
    cluster.a.process.kill()
    await asyncio.wait(posts)

    made: dict[str, str] = {}

    async def all_made() -> bool:
        for key in keys:
            if key not in made and (answer := await send(cluster.b, key, device.client_id)).status_code == 200:
                made[key] = answer.json()["session_id"]
        return len(made) == len(keys)

    await eventually(all_made, "every repetition is accepted", within_s=30)
    for post, key in zip(posts, keys, strict=True):
        if post.exception() is None and post.result().status_code == 200:
            assert post.result().json()["session_id"] == made[key]
    listed = {s["session_id"] for s in await cluster.b.sessions_of(device.client_id)}
    assert listed == set(made.values())
    # Accepted is not delivered yet.
    await eventually(lambda: device.count("task") >= len(keys), "every task has arrived")
    await device.still_served()
    assert device.count("task") == len(keys)
