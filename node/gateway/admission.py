"""Who may open a socket now: a token bucket for newcomers, and bounds on sockets and on registrations under way.

Refused before the upgrade, a newcomer costs one small answer: 503 with a `Retry-After` that spreads those who were
turned away over the time that it takes to let them all in, with jitter, so that a herd does not come back as a herd.
Nothing here waits for Redis, and probes are no newcomers: readiness and liveness do not suffer.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from node.serving.rate_limit import Clock, TokenBucket
from node.serving.shares import Shares
from node.telemetry.metrics import Limit, Metrics

__all__ = ["Admission", "Place", "TurnedAway"]

_random = random.SystemRandom().random

LONGEST_RETRY_S = 30
# Sockets end when they end: without a rate to reckon with, this is a guess that keeps the asking cheap.
FULL_RETRY_S = 10.0


class TurnedAway(NamedTuple):
    """Why a newcomer may not come in, and in how many whole seconds it may ask again."""

    limit: Limit
    retry_after_s: int

    @property
    def status(self) -> int:
        """That of the answer: 429 if the newcomer's address has its share, 503 if the node has enough."""
        return 429 if self.limit is Limit.ADDRESS_SHARE else 503

    @property
    def detail(self) -> str:
        """A sentence for the newcomer."""
        if self.limit is Limit.ADDRESS_SHARE:
            return "Too many sockets of your address have not registered yet (address_share), try again later"
        return "Too many are connecting, try again later"


class Admission:
    """The door of one node."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        rate_per_s: float,
        burst: int,
        max_connections: int,
        max_unregistered: int,
        max_registering: int,
        address_share: float,
        clock: Clock = time.monotonic,
        rng: Callable[[], float] = _random,
    ) -> None:
        self._metrics = metrics
        self._bucket = TokenBucket(rate_per_s, burst, clock=clock)
        # Those turned away lately: drained as fast as newcomers are let in, since so fast they can come back.
        self._away = TokenBucket(rate_per_s, 0, clock=clock)
        self._max_connections = max_connections
        self._max_unregistered = max_unregistered
        self._rng = rng
        self._connections = 0
        self._unregistered = 0
        self._shares = Shares(max_unregistered, address_share)
        # Registrations that are being stored; others wait their turn, which `max_unregistered` bounds.
        self.registering = asyncio.Semaphore(max_registering)

    @property
    def unregistered(self) -> int:
        """Sockets that have not registered yet."""
        return self._unregistered

    def enter(self, caller: str) -> "Place | TurnedAway":
        """A place for one more socket of this caller, to be used as a context, or why there is none."""
        limit = self._limit(caller)
        if limit is not None:
            self._metrics.refusals.labels(limit).inc()
            return TurnedAway(limit, self._retry_after_s(limit))
        self._connections += 1
        self._unregistered += 1
        return Place(self, caller)

    def _limit(self, caller: str) -> Limit | None:
        if self._connections >= self._max_connections:
            return Limit.CONNECTIONS
        if self._unregistered >= self._max_unregistered:
            return Limit.UNREGISTERED
        if not self._shares.take(caller):
            return Limit.ADDRESS_SHARE
        # Last, so that nobody who is refused anyway takes a token.
        if self._bucket.take():
            return None
        self._shares.give(caller)
        return Limit.CONNECT_RATE

    def _retry_after_s(self, limit: Limit) -> int:
        spread_s = FULL_RETRY_S if limit in {Limit.CONNECTIONS, Limit.ADDRESS_SHARE} else max(1.0, self._away.spend(1))
        return min(LONGEST_RETRY_S, 1 + math.floor(self._rng() * math.ceil(spread_s)))

    def registered(self, caller: str) -> None:
        """One of those inside is known by now. For `Place` only."""
        self._unregistered -= 1
        self._shares.give(caller)

    def left(self) -> None:
        """One of those inside has gone. For `Place` only."""
        self._connections -= 1


class Place:
    """One socket's place, given back when the context ends."""

    __slots__ = ("_admission", "_caller")

    def __init__(self, admission: Admission, caller: str) -> None:
        self._admission = admission
        # None once it has registered.
        self._caller: str | None = caller

    def registered(self) -> None:
        """The socket has registered: from now on it counts as a client's. Safe to repeat."""
        caller, self._caller = self._caller, None
        if caller is not None:
            self._admission.registered(caller)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.registered()
        self._admission.left()
