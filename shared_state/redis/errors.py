"""What Redis and the line to it can answer, in our own words: `StateUnavailable` with a reason, or `StateError`.

A reason names no address and holds nothing of what was asked. Nothing of redis-py stays attached to it.
"""

import logging

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared_state.errors import StateError, StateFull, StateUnavailable

__all__ = ["NotReplicatedError", "translate"]

log = logging.getLogger(__name__)


class NotReplicatedError(ResponseError):
    """Written to the primary, but fewer replicas than asked for have said that they hold it, too."""


# Most specific first: redis-py derives several of these from ConnectionError and ResponseError.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (AuthenticationError, "Redis refuses the credentials"),
    (AuthorizationError, "Redis refuses the credentials"),
    (NoPermissionError, "the Redis user lacks a permission"),
    (BusyLoadingError, "Redis is loading its data"),
    (ReadOnlyError, "Redis is a read-only replica now"),
    (MasterDownError, "the Redis primary is down"),
    (ClusterDownError, "the Redis cluster is down"),
    (TryAgainError, "Redis is moving the key"),
    # MOVED is one, too: left only when the servers of a Cluster send each other round in circles.
    (AskError, "Redis is moving the key"),
    (NotReplicatedError, "written, but not yet by enough replicas"),
    (RedisTimeoutError, "Redis did not answer in time"),
    (TimeoutError, "Redis did not answer in time"),
    (RedisConnectionError, "Redis cannot be reached"),
    (OSError, "Redis cannot be reached"),
    # What uvloop raises for a write to a socket that was cut a moment ago.
    (RuntimeError, "Redis cannot be reached"),
)


def translate(exc: BaseException) -> StateError:
    """The error that callers see. What is not known is logged, since it is ours to mend."""
    if isinstance(exc, RedisConnectionError) and isinstance(exc.__context__, AuthenticationError | ResponseError):
        # What a server answers to the hello of a connection comes wrapped.
        exc = exc.__context__
    # Redis 6.2 wraps what a script was refused.
    if isinstance(exc, OutOfMemoryError) or (isinstance(exc, ResponseError) and "OOM command not allowed" in str(exc)):
        return StateFull("Redis is out of memory")
    for kind, reason in _REASONS:
        if isinstance(exc, kind):
            return StateUnavailable(reason)
    if isinstance(exc, ResponseError) and str(exc).startswith(("WRONGPASS", "NOAUTH", "invalid username-password")):
        return StateUnavailable("Redis refuses the credentials")
    if isinstance(exc, ResponseError) and str(exc).startswith(("MISCONF", "NOREPLICAS")):
        return StateUnavailable(f"Redis refuses writes ({str(exc).split(maxsplit=1)[0]})")
    log.error("Redis answered with an error", extra={"error": str(exc)[:300]})
    return StateError("Redis answered with an error")
