"""What `scripts/bench` reads from Redis: INFO, the lines of MONITOR, kinds of keys; on a real server, too."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.bench.redis_cost import (
    RedisUse,
    Watched,
    key_kind,
    memory_by_kind,
    parse_use,
    redis_use,
    time_by_kind,
    watching,
)
from devtools.topologies import Server, Single, redis_program
from shared_state.keys import Keys
from shared_state.redis.lua import script_names, script_source

INFO = {
    "used_cpu_user": 1.5,
    "used_cpu_sys": "0.25",
    "total_commands_processed": 100,
    "used_memory": 5000,
    "mem_clients_normal": 1000,
    "total_net_input_bytes": 7,
    "total_net_output_bytes": 9,
}


def test_info_is_read_and_subtracted() -> None:
    start = parse_use(INFO)
    assert start == RedisUse(cpu_s=1.75, commands=100, stored_bytes=4000, net_in_bytes=7, net_out_bytes=9)
    later = parse_use(INFO | {"used_cpu_user": 2.0, "total_commands_processed": 130, "used_memory": 5600})
    assert later - start == RedisUse(cpu_s=0.5, commands=30, stored_bytes=600, net_in_bytes=0, net_out_bytes=0)


def test_a_server_that_does_not_say_is_refused() -> None:
    with pytest.raises(KeyError):
        parse_use({"used_memory": 1})


K = Keys()


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (K.session_events("a-b"), "aip:steps:{}"),
        (K.registration("device-1"), "aip:client:{}"),
        (K.posted("d", "m-1"), "aip:posted:{}"),
        (K.session_chunk("s", "t", 4), "aip:chunk:{}"),
        (K.node_clients("n.1"), "aip:{node:}:clients"),
        (K.node_info("n.1"), "aip:{nodes}:node"),
        (K.leases(), "aip:{nodes}:leases"),
        (K.sessions(), "aip:sessions"),
    ],
)
def test_a_kind_is_a_key_without_its_ids(key: str, kind: str) -> None:
    assert key_kind(key) == kind


def test_what_a_script_calls_is_counted_for_its_caller() -> None:
    script = script_names()[0]
    sha = hashlib.sha1(script_source(script), usedforsecurity=False).hexdigest()
    watched = Watched()
    for line in (
        b"+OK",
        b'+1.0 [0 127.0.0.1:5] "EVALSHA" "%b" "1" "aip:sessions" "m" "100" "5"' % sha.encode(),
        b'+1.0 [0 lua] "ZADD" "aip:sessions" "0" "m"',
        b'+1.0 [0 lua] "pexpire" "aip:sessions" "5"',
        b'+1.0 [0 127.0.0.1:5] "HGET" "aip:client:{f00}:a \\"quoted\\" id" "x"',
        b'+1.0 [0 127.0.0.1:6] "INFO"',
    ):
        watched.note(line)
    assert watched.sent == Counter({script: 1, "hget": 1})
    assert watched.in_scripts == Counter({"zadd": 1, "pexpire": 1})
    assert watched.by_key == Counter({"aip:sessions": 3, "aip:client:{}": 1})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if redis_program() is None:
        pytest.skip("redis-server is not installed")
    single = Single(tmp_path)
    try:
        single.start()
        yield single.servers[0]
    finally:
        single.dispose()


async def test_a_real_server_is_watched_to_the_last_command(server: Server) -> None:
    async with watching(server) as watched:
        for i in range(200):
            await asyncio.to_thread(server.client.set, f"aip:session:{{{i}}}:{i}", "x")
        await asyncio.to_thread(server.ask, "EVAL", "return redis.call('GET', KEYS[1])", 1, "aip:sessions")
    assert watched.sent["set"] == 200
    assert watched.in_scripts == Counter({"get": 1})
    assert watched.by_key["aip:session:{}"] == 200


def test_a_real_server_says_what_it_stores(server: Server) -> None:
    before = redis_use(server)
    for i in range(500):
        server.client.set(f"aip:task:{{{i}}}", "x" * 1000)
    grown = redis_use(server) - before
    kinds = memory_by_kind(server)
    assert list(kinds) == ["aip:task:{}"]
    count, size = kinds["aip:task:{}"]
    assert count == 500
    assert 500_000 < size <= grown.stored_bytes < 1_500_000
    assert grown.commands >= 500
    assert grown.net_in_bytes > 500_000


def test_time_is_counted_for_the_first_key_of_who_was_called(server: Server) -> None:
    many = "for i = 1, 2000 do redis.call('INCR', KEYS[1]) end return 'a b'"
    before = server.client.config_get("slowlog-*")
    with time_by_kind(server) as spent:
        server.client.eval(many, 1, K.session("a-b"))
        server.client.hset(K.sessions(), mapping={f"field-{i}": "x" for i in range(5_000)})
        server.client.info()
    assert set(spent) == {"aip:session:{}", "aip:sessions"}
    assert all(us > 0 for us in spent.values())
    assert server.client.config_get("slowlog-*") == before
