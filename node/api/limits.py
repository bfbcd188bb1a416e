"""How many requests a node works on, and how many only wait, at a time. Beyond that: 503 with a jittered `Retry-After`.

Whoever waits (`?wait=`, an event stream) costs little and takes long, so a request that begins to wait gives up its
place among those that are worked on, and takes one among those that wait. Probes are never counted.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import Request
from starlette.types import Scope

from node.api.errors import ApiError
from node.telemetry.metrics import Limit, Metrics

__all__ = ["Limits"]

_random = random.SystemRandom().random

RETRY_SPREAD_S = 3
_PLACE = "aip.place"


class Limits:
    """The counts of one node."""

    def __init__(
        self, metrics: Metrics, *, max_requests: int, max_waiters: int, rng: Callable[[], float] = _random
    ) -> None:
        self._metrics = metrics
        self._max_requests = max_requests
        self._max_waiters = max_waiters
        self._rng = rng
        self.working = 0
        self.waiting = 0

    def begin(self, scope: Scope) -> None:
        """A place for one more request, noted in its scope. Raises ApiError 503."""
        if self.working >= self._max_requests:
            raise self._too_many(Limit.REQUESTS, "The node works on too many requests")
        scope[_PLACE] = True
        self.working += 1

    def end(self, scope: Scope) -> None:
        """Give the place up: done, only waiting, or bounded by something else from here on. Safe to repeat."""
        if scope.pop(_PLACE, False):
            self.working -= 1

    @contextmanager
    def wait(self, request: Request) -> Iterator[None]:
        """The request only waits from here on. Raises ApiError 503."""
        if self.waiting >= self._max_waiters:
            raise self._too_many(Limit.WAITERS, "Too many requests wait on this node")
        self.end(request.scope)
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def _too_many(self, limit: Limit, detail: str) -> ApiError:
        self._metrics.refusals.labels(limit).inc()
        retry_s = 1 + int(self._rng() * RETRY_SPREAD_S)
        return ApiError(503, detail, headers={"Retry-After": str(retry_s)})
