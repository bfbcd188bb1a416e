"""The routes into a real Redis Cluster while slots move: redirections are followed, subscriptions move along."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.crc import key_slot

from devtools.topologies import Cluster, Server
from shared_state import State
from shared_state.errors import StateUnavailable
from shared_state.redis.slots import parse_slots, slot_of
from tests.support.backends import Backend
from tests.support.wait import PATIENCE_S, until


class Move:
    """One slot on its way from its holder to another primary."""

    def __init__(self, cluster: Cluster, key: str) -> None:
        self.slot = key_slot(key.encode())
        self.source = cluster.holder(key)
        self.target = next(s for s in cluster.primaries() if s is not self.source)
        self._cluster = cluster

    def begin(self) -> None:
        self._set(self.target, "IMPORTING", self.source)
        self._set(self.source, "MIGRATING", self.target)

    def carry(self, key: str) -> None:
        self.source.ask("MIGRATE", "127.0.0.1", self.target.port, key, 0, 5_000)

    def finish(self) -> None:
        for server in (self.target, self.source):
            self._set(server, "NODE", self.target)

    def _set(self, server: Server, what: str, other: Server) -> None:
        server.ask("CLUSTER", "SETSLOT", self.slot, what, other.ask("CLUSTER", "MYID").decode())


@pytest.fixture
async def state(redis_cluster: Cluster) -> AsyncIterator[State]:
    backend = Backend("cluster", redis_cluster.url)
    yield backend.state()
    await backend.close()


async def test_a_key_that_moves_is_reached_before_while_and_after(redis_cluster: Cluster, state: State) -> None:
    command = state.connection.command
    stays, goes, new = (f"{state.keys.prefix}:{{moving}}:{name}" for name in ("stays", "goes", "new"))
    for key in (stays, goes):
        await command("SET", key, key, "PX", 60_000)
    move = Move(redis_cluster, stays)
    move.begin()
    move.carry(goes)
    assert await command("GET", stays) == stays.encode()
    assert await command("GET", goes) == goes.encode(), "ASK is followed"
    assert await command("INCR", new) == 1, "what is new is made where the slot goes"
    await command("PEXPIRE", new, 60_000)

    asked = asyncio.ensure_future(command("DEL", stays, goes))
    await asyncio.sleep(0.02)
    move.carry(stays)
    assert await asked == 2, "TRYAGAIN is repeated until both keys are on one server"

    move.finish()
    assert await asyncio.gather(*(command("INCR", new) for _ in range(20))) == list(range(2, 22)), "MOVED is followed"


async def test_keys_that_stay_apart_for_long_are_unavailable_in_time(redis_cluster: Cluster, state: State) -> None:
    stays, goes = (f"{state.keys.prefix}:{{apart}}:{name}" for name in ("stays", "goes"))
    for key in (stays, goes):
        await state.connection.command("SET", key, "1", "PX", 60_000)
    move = Move(redis_cluster, stays)
    move.begin()
    move.carry(goes)
    with pytest.raises(StateUnavailable, match="moving the key"):
        await state.connection.command("DEL", stays, goes)
    move.carry(stays)
    move.finish()
    assert await state.connection.command("DEL", stays, goes) == 2


async def test_the_bus_moves_along_with_the_slot_of_its_channel(redis_cluster: Cluster, state: State) -> None:
    heard: list[bytes] = []
    gaps = 0

    async def on_gap() -> None:
        nonlocal gaps
        gaps += 1

    # Without probes: the server itself says that the subscription is over.
    bus = state.bus("node-a", probe_interval_s=0)
    await bus.start(on_frame=lambda _, rest: heard.append(rest), on_gap=on_gap, wait_s=PATIENCE_S)
    assert await bus.tell("node-a", "ended", "before") == 1
    move = Move(redis_cluster, state.keys.channel("node-a"))
    move.begin()
    move.finish()
    await until(lambda: gaps == 2 and bus.subscribed, "the subscription stands on the new holder")
    assert await bus.tell("node-a", "ended", "after") == 1
    await until(lambda: heard[-1:] == [b"after"], "frames are heard there")
    await bus.close()


async def test_what_is_for_a_silent_server_fails_alone(redis_cluster: Cluster) -> None:
    state = State(redis_cluster.url, prefix="t", timeout_s=3.0)
    await state.connection.ping()
    silent, other, *_ = redis_cluster.primaries()
    keys = [f"t:{{{i}}}" for i in range(200)]
    for_silent = [k for k in keys if redis_cluster.holder(k) is silent][:5]
    for_other = [k for k in keys if redis_cluster.holder(k) is other][:5]
    await asyncio.gather(*(state.connection.command("GET", k) for k in (*for_silent, *for_other)))
    silent.freeze()
    try:
        waiting = [asyncio.ensure_future(state.connection.command("GET", k)) for k in for_silent]
        assert await asyncio.gather(*(state.connection.command("GET", k) for k in for_other)) == [None] * 5
        assert not any(w.done() for w in waiting), "the others did not wait for the silent one"
        async with asyncio.timeout(PATIENCE_S):
            failed = await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        silent.thaw()
    assert {type(f) for f in failed} == {StateUnavailable}
    await until(lambda: redis_cluster.healthy, "the cluster is whole again")
    await state.close()


def test_commands_are_routed_by_the_key_that_they_name_first() -> None:
    slot = key_slot(b"{a}")
    assert slot_of(("GET", "x:{a}")) == slot
    assert slot_of(("SET", b"x:{a}", "1")) == slot
    assert slot_of(("EVALSHA", "sha", 2, "y:{a}", "z:{a}", "arg")) == slot
    assert slot_of(("SPUBLISH", "{a}", "x")) == slot
    for keyless in (("PING",), ("INFO", "server"), ("EVALSHA", "sha", 0, "arg"), ("PUBLISH", "c", "x")):
        assert slot_of(keyless) is None


def test_a_server_that_does_not_say_its_own_name_is_the_one_that_was_asked() -> None:
    owners = parse_slots([[0, 1, [b"", 7000, b"id"], [b"h2", 7001, b"id"]], [2, 16_383, [b"h3", 7002]]], ("asked", 1))
    assert owners[:3] == [("asked", 7000), ("asked", 7000), ("h3", 7002)]
    assert None not in owners
