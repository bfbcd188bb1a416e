"""The sockets to one server: what is written is what redis-py would write, and no socket serves twice after a fault."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
import redis.asyncio as aioredis
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, MaxConnectionsError, NoScriptError, ResponseError

from shared_state.redis.wire import Args, Line, Outcome, Sockets, pack, reader_of
from tests.support.redis_server import RedisServer
from tests.support.wait import PATIENCE_S, until

VALUES = st.one_of(st.text(), st.binary(), st.integers(), st.floats(), st.binary(min_size=5_000, max_size=20_000))
LIMIT = 3


@pytest.fixture
async def client(own_redis: RedisServer) -> AsyncIterator[aioredis.Redis]:
    path = own_redis.url.removeprefix("unix://")
    client = aioredis.Redis(unix_socket_path=path, protocol=2, socket_timeout=PATIENCE_S, retry=Retry(NoBackoff(), 0))
    yield client
    await client.aclose()


@pytest.fixture
async def sockets(client: aioredis.Redis) -> AsyncIterator[Sockets]:
    sockets = Sockets(client, limit=LIMIT, repeats=True)
    yield sockets
    await sockets.close()


async def _ask(sockets: Sockets, *commands: Args) -> list[object]:
    async with asyncio.timeout(PATIENCE_S):
        return await sockets.exchange(pack(commands), len(commands))


@given(st.lists(st.lists(VALUES, max_size=5).map(lambda values: ("EVALSHA", *values)), max_size=4))
def test_commands_are_written_as_redis_py_writes_them(commands: list[Args]) -> None:
    try:
        expected = b"".join(aioredis.Connection().pack_commands(commands))
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            pack(commands)
    else:
        assert pack(commands) == expected


@pytest.mark.parametrize("value", [None, True, ["x"], {}, object()])
def test_what_is_no_value_is_refused(value: object) -> None:
    with pytest.raises(DataError):
        pack([("SET", "x", value)])  # type: ignore[list-item]


async def test_error_replies_are_among_the_replies_as_redis_py_names_them(sockets: Sockets) -> None:
    replies = await _ask(sockets, ("ECHO", "a"), ("EVALSHA", "0" * 40, 0), ("NONSENSE",), ("ECHO", "b"))
    assert [type(reply) for reply in replies] == [bytes, NoScriptError, ResponseError, bytes]
    assert replies[::3] == [b"a", b"b"]


async def test_replies_larger_than_any_buffer_come_whole(sockets: Sockets) -> None:
    large = "x" * 3_000_000
    assert await _ask(sockets, *[("ECHO", large)] * 5) == [large.encode()] * 5


async def test_a_cancelled_exchange_leaves_no_reply_to_the_next(own_redis: RedisServer, sockets: Sockets) -> None:
    assert await _ask(sockets, ("ECHO", "first")) == [b"first"]
    late = asyncio.ensure_future(_ask(sockets, ("BLPOP", "nothing", 1)))
    await asyncio.sleep(0.05)
    late.cancel()
    await asyncio.wait({late})
    assert await _ask(sockets, ("ECHO", "second")) == [b"second"]
    with own_redis.client() as control:
        # One is left, besides that of this very question.
        assert len([c for c in control.client_list() if c["cmd"] == "echo"]) == 1


async def test_a_socket_is_used_again(own_redis: RedisServer, sockets: Sockets) -> None:
    ids = [(await _ask(sockets, ("CLIENT", "ID")))[0] for _ in range(5)]
    assert len(set(ids)) == 1
    sockets.drop_idle()
    assert (await _ask(sockets, ("CLIENT", "ID")))[0] not in ids


async def test_sockets_are_bounded(sockets: Sockets) -> None:
    held = [asyncio.ensure_future(_ask(sockets, ("BLPOP", "gate", 0))) for _ in range(LIMIT)]
    await asyncio.sleep(0.05)
    with pytest.raises(MaxConnectionsError):
        await _ask(sockets, ("PING",))
    for task in held:
        task.cancel()
    await asyncio.wait(held)
    assert await _ask(sockets, ("ECHO", "x")) == [b"x"], "those that were cancelled count no more"


async def test_a_socket_on_which_the_server_speaks_unasked_is_not_used_again(sockets: Sockets) -> None:
    first = (await _ask(sockets, ("CLIENT", "ID")))[0]
    (line,) = sockets._idle
    line.data_received(b"+nobody asked\r\n")
    assert line.ended
    assert await _ask(sockets, ("ECHO", "x")) == [b"x"]
    assert (await _ask(sockets, ("CLIENT", "ID")))[0] != first


async def test_a_server_that_says_more_than_it_was_asked_breaks_the_socket(sockets: Sockets) -> None:
    assert await _ask(sockets, ("ECHO", "x")) == [b"x"]
    outcomes: list[Outcome] = []
    line = sockets.send(pack([("BLPOP", "nothing", 0)]), 1, outcomes.append)
    assert line is not None
    line.data_received(b"+one\r\n+two\r\n")
    assert [type(outcome) for outcome in outcomes] == [RedisConnectionError]
    assert line.ended


@given(st.lists(st.integers(min_value=1, max_value=40), max_size=20))
def test_replies_are_the_same_in_whatever_pieces_they_arrive(sizes: list[int]) -> None:
    stream = b"$3\r\nabc\r\n*2\r\n:1\r\n$-1\r\n-NOSCRIPT none\r\n+OK\r\n"

    async def arrive() -> Outcome:
        outcomes: list[Outcome] = []
        line = Line(aioredis.Connection(), lambda line: None, lambda line: None)
        line._reader = reader_of(line._socket)
        line._done, line._count = outcomes.append, 4
        rest = stream
        for size in (*sizes, len(stream)):
            if rest:
                line.data_received(rest[:size])
                rest = rest[size:]
        (outcome,) = outcomes
        return outcome

    replies = asyncio.run(arrive())
    assert isinstance(replies, list)
    assert replies[:2] == [b"abc", [1, None]]
    assert isinstance(replies[2], NoScriptError)
    assert replies[3] == b"OK"


async def test_what_finds_no_idle_socket_is_not_sent(sockets: Sockets) -> None:
    outcomes: list[Outcome] = []
    assert sockets.send(pack([("PING",)]), 1, outcomes.append) is None
    assert await _ask(sockets, ("ECHO", "x")) == [b"x"]
    assert sockets.send(pack([("ECHO", "y")]), 1, outcomes.append) is not None
    assert sockets.send(pack([("ECHO", "z")]), 1, outcomes.append) is None, "it serves one batch at a time"
    await until(lambda: outcomes, "the replies are here")
    assert outcomes == [[b"y"]]


def _blocked(control: redis.Redis) -> list[str]:
    return [c["id"] for c in control.client_list() if c["cmd"] == "blpop"]


@pytest.mark.parametrize("repeats", [True, False])
async def test_a_socket_that_breaks_under_a_call_is_replaced_if_wanted(
    own_redis: RedisServer, client: aioredis.Redis, repeats: bool
) -> None:
    sockets = Sockets(client, limit=LIMIT, repeats=repeats)
    waiting = asyncio.ensure_future(_ask(sockets, ("BLPOP", "list", 0)))
    with own_redis.client() as control:
        await until(lambda: bool(_blocked(control)), "it waits")
        control.client_kill_filter(_id=_blocked(control)[0])
        control.rpush("list", "x")
    if repeats:
        assert await waiting == [[b"list", b"x"]]
    else:
        with pytest.raises(RedisConnectionError):
            await waiting
    await sockets.close()


async def test_closing_ends_a_call_and_refuses_others(sockets: Sockets) -> None:
    waiting = asyncio.ensure_future(_ask(sockets, ("BLPOP", "nothing", 0)))
    await asyncio.sleep(0.05)
    await sockets.close()
    with pytest.raises(RedisConnectionError):
        await waiting
    with pytest.raises(RedisConnectionError, match="closed"):
        await _ask(sockets, ("PING",))
