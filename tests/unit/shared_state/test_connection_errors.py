"""Every failure of Redis has one name outside, and none tells an address or a secret."""

import pytest
import redis.exceptions as r

from shared_state import State
from shared_state.errors import StateError, StateUnavailable
from tests.support.backends import Backend
from tests.support.redis_server import RedisServer

SECRET = "redis://user:hunter2@10.1.2.3:6379"

UNAVAILABLE = [
    (r.AuthenticationError, "Redis refuses the credentials"),
    (r.AuthorizationError, "Redis refuses the credentials"),
    (r.NoPermissionError, "the Redis user lacks a permission"),
    (r.BusyLoadingError, "Redis is loading its data"),
    (r.ReadOnlyError, "Redis is a read-only replica now"),
    (r.OutOfMemoryError, "Redis is out of memory"),
    (r.MasterDownError, "the Redis primary is down"),
    (r.ClusterDownError, "the Redis cluster is down"),
    (r.TryAgainError, "Redis is moving the key"),
    (r.TimeoutError, "Redis did not answer in time"),
    (TimeoutError, "Redis did not answer in time"),
    (r.MaxConnectionsError, "Redis cannot be reached"),
    (r.ConnectionError, "Redis cannot be reached"),
    (ConnectionResetError, "Redis cannot be reached"),
    (BrokenPipeError, "Redis cannot be reached"),
    (OSError, "Redis cannot be reached"),
]
REFUSED = ["MISCONF Redis is configured to save", "NOREPLICAS Not enough good replicas"]


def _raising(monkeypatch: pytest.MonkeyPatch, state: State, exc: Exception) -> None:
    async def execute(lane: str, commands: list[object], *rest: object) -> list[object]:
        raise exc

    monkeypatch.setattr(state.connection._route, "execute", execute)


def _replying(monkeypatch: pytest.MonkeyPatch, state: State, exc: Exception) -> None:
    async def execute(lane: str, commands: list[object], *rest: object) -> list[object]:
        return [exc for _ in commands]

    monkeypatch.setattr(state.connection._route, "execute", execute)


@pytest.mark.parametrize("how", [_raising, _replying], ids=["raised", "replied"])
@pytest.mark.parametrize(("kind", "reason"), UNAVAILABLE, ids=[kind.__name__ for kind, _ in UNAVAILABLE])
async def test_what_passes_is_unavailable_with_a_reason(
    kind: type[Exception], reason: str, how: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State("embedded://errors")
    (_raising if how is _raising else _replying)(monkeypatch, state, kind(SECRET))
    with pytest.raises(StateUnavailable) as told:
        await state.connection.ping()
    assert str(told.value) == reason
    await state.close()


@pytest.mark.parametrize("text", REFUSED)
async def test_refused_writes_are_unavailable(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State("embedded://errors")
    _replying(monkeypatch, state, r.ResponseError(text))
    with pytest.raises(StateUnavailable, match=f"refuses writes \\({text.split(maxsplit=1)[0]}\\)"):
        await state.connection.ping()
    await state.close()


@pytest.mark.parametrize(
    "exc", [r.ResponseError(f"WRONGTYPE {SECRET}"), r.DataError(SECRET), r.InvalidResponse(SECRET)]
)
async def test_any_other_error_is_ours_to_mend(exc: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State("embedded://errors")
    _replying(monkeypatch, state, exc)
    with pytest.raises(StateError) as told:
        await state.connection.ping()
    assert type(told.value) is StateError
    assert "hunter2" not in str(told.value)
    await state.close()


async def test_no_exception_of_redis_py_stays_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A logged traceback would show it, address and all."""
    state = State("embedded://errors")
    _raising(monkeypatch, state, r.ConnectionError(SECRET))
    with pytest.raises(StateUnavailable) as told:
        await state.connection.ping()
    assert told.value.__cause__ is None
    assert told.value.__context__ is None
    await state.close()


async def test_a_wrong_password_is_said_to_be_wrong(real_backend: Backend, redis_server: RedisServer) -> None:
    state = State(f"unix://user:hunter2@{redis_server.url.removeprefix('unix://')}")
    with pytest.raises(StateUnavailable, match="refuses the credentials"):
        await state.connection.ping()
    await state.close()


async def test_a_missing_password_is_said_to_be_missing(own_redis: RedisServer) -> None:
    with own_redis.client() as control:
        control.config_set("requirepass", "hunter2")
    state = State(own_redis.url)
    with pytest.raises(StateUnavailable, match="refuses the credentials"):
        await state.connection.ping()
    await state.close()


async def test_a_full_redis_is_unavailable_and_serves_again(own_redis: RedisServer) -> None:
    state = State(own_redis.url, prefix="t")
    await state.connection.command("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(StateUnavailable, match=r"memory|OOM"):
        await state.connection.command("SET", "t:x", "1", "PX", 60_000)
    await state.connection.command("CONFIG", "SET", "maxmemory", 0)
    assert (await state.nodes.renew("node-a", {})).live == {"node-a"}
    await state.close()


async def test_a_replica_is_unavailable_for_writes(own_redis: RedisServer) -> None:
    state = State(own_redis.url, prefix="t")
    await state.connection.command("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(StateUnavailable, match=r"replica|primary"):
        await state.connection.command("SET", "t:x", "1", "PX", 60_000)
    await state.connection.command("REPLICAOF", "NO", "ONE")
    await state.connection.command("SET", "t:x", "1", "PX", 60_000)
    await state.close()
