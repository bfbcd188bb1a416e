"""How many requests a node works on, how many only wait, and how many streams it serves, at a time.

Beyond that the answer is 503, and 429 for a caller that has its share of them already (`node.serving.shares`), each
with a jittered `Retry-After`. Whoever waits (`?wait=`, an event stream) costs little and takes long, so a request that
begins to wait gives up its place among those that are worked on, and takes one among those that wait. Probes are not
counted.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from starlette.requests import Request
from starlette.types import Scope

from node.serving.http_errors import ApiError
from node.serving.proxies import Proxies
from node.serving.shares import Shares
from node.telemetry.metrics import Limit, Metrics

__all__ = ["Limits"]

_random = random.SystemRandom().random

RETRY_SPREAD_S = 3
# In the scope of a request: who sent it, and what it holds.
_CALLER = "aip.caller"
_PLACE = "aip.place"


class _Places(Shares):
    """Places of one kind: how many are taken, by all and by each caller, and what is said to who gets none."""

    __slots__ = ("limit", "most", "too_many", "too_many_of_one")

    def __init__(self, limit: Limit, setting: str, most: int, share: float, what: str) -> None:
        super().__init__(most, share)
        self.limit = limit
        self.most = most
        self.too_many = f"Too many requests {what} this node ({setting}): try again later"
        self.too_many_of_one = (
            f"Too many requests from your address {what} this node, at most {self.most_each} "
            f"(address_share of {setting}): try again later"
        )


class Limits:
    """The counts of one node."""

    def __init__(
        self,
        metrics: Metrics,
        proxies: Proxies,
        *,
        max_requests: int,
        max_waiters: int,
        max_event_streams: int,
        address_share: float,
        rng: Callable[[], float] = _random,
    ) -> None:
        self._metrics = metrics
        self._proxies = proxies
        self._rng = rng
        self._working = _Places(Limit.REQUESTS, "max_requests", max_requests, address_share, "are worked on by")
        self._waiting = _Places(Limit.WAITERS, "max_waiters", max_waiters, address_share, "wait on")
        self._streaming = _Places(
            Limit.EVENT_STREAMS,
            "max_event_streams",
            max_event_streams,
            address_share,
            "for event streams are served by",
        )

    @property
    def working(self) -> int:
        """Requests that are worked on."""
        return self._working.taken

    @property
    def waiting(self) -> int:
        """Requests that wait for a result."""
        return self._waiting.taken

    @property
    def streaming(self) -> int:
        """Event streams."""
        return self._streaming.taken

    def begin(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        """A place for a request with these headers (by name), noted in its scope. Raises ApiError 503, or 429."""
        caller = scope[_CALLER] = self._proxies.caller_of(scope.get("client"), headers)
        # As `_take`, which would be one call more for each request.
        if self._working.taken >= self._working.most or not self._working.take(caller):
            raise self._refused(self._working)
        scope[_PLACE] = caller

    def end(self, scope: Scope) -> None:
        """Give the place up: done, only waiting, or bounded by something else from here on. Safe to repeat."""
        caller = scope.pop(_PLACE, None)
        if caller is not None:
            self._working.give(caller)

    @contextmanager
    def wait(self, request: Request) -> Iterator[None]:
        """The request only waits from here on. Raises ApiError 503, or 429."""
        caller = request.scope[_CALLER]
        self._take(self._waiting, caller)
        self.end(request.scope)
        try:
            yield
        finally:
            self._waiting.give(caller)

    def stream(self, request: Request) -> Callable[[], None]:
        """The request is an event stream from here on. Returns what ends it. Raises ApiError 503, or 429."""
        caller = request.scope[_CALLER]
        self._take(self._streaming, caller)
        self.end(request.scope)
        return lambda: self._streaming.give(caller)

    def _take(self, places: _Places, caller: str) -> None:
        if places.taken >= places.most or not places.take(caller):
            raise self._refused(places)

    def _refused(self, places: _Places) -> ApiError:
        full = places.taken >= places.most
        self._metrics.refusals.labels(places.limit if full else Limit.ADDRESS_SHARE).inc()
        retry_s = 1 + int(self._rng() * RETRY_SPREAD_S)
        status, detail = (503, places.too_many) if full else (429, places.too_many_of_one)
        return ApiError(status, detail, headers={"Retry-After": str(retry_s)})
