"""Pub/sub between nodes: each node listens on a channel of its own.

A frame is `kind`, then fields, separated by newlines: `inbox\\n<client>\\n<entry>\\n<message>`,
`ended\\n<session>`, `event\\n<session>`, and what nodes ask each other. The bus is a wake-up, never the only copy: a
frame may be lost while a subscription is down. Whenever it is back, `on_gap` is called, and the node looks for itself
at what it may have missed.

A socket that is open proves nothing: a server that failed over, a line that swallows everything, a subscription that
was dropped leave a node deaf without a word. So the node says something to itself every `probe_interval_s`, the way
that others reach it, and must hear it. Unheard for `deaf_after_s` although saying it succeeded, or once another server
has taken over the channel, the subscription is made anew; `subscribed` is false meanwhile. What cannot be said proves
nothing about hearing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from aip_cluster.protocol.backoff import Backoff
from shared_state.errors import StateError, StateUnavailable
from shared_state.keys import Keys
from shared_state.publisher import Publisher
from shared_state.redis import Subscription
from shared_state.redis.connection import Connection

__all__ = ["Bus", "BusObserver"]

log = logging.getLogger(__name__)

OnFrame = Callable[[bytes, bytes], None]
OnGap = Callable[[], Awaitable[None]]

RETRY_BASE_S = 0.1
RETRY_CAP_S = 2.0
# Heard by the bus itself, never handed on.
PROBE = b"self"
# The kind of a frame that is the order of a session.
ORDER = b"order"


class BusObserver(Protocol):
    """Who counts, for metrics."""

    def probe_heard(self, seconds: float) -> None:
        """A probe came back after so long."""

    def probe_missed(self) -> None:
        """A probe that was published had not come back when the next one was due."""

    def resubscribed(self) -> None:
        """The subscription stands again after it was lost or torn down."""


class Bus:
    """The node's ear, and its voice to other nodes.

    Frames are handed on where they are read. One task subscribes and probes, owned by `start`, ended by `close`; it
    survives everything but `close`.
    """

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        node_id: str,
        *,
        probe_interval_s: float = 2.0,
        deaf_after_s: float = 6.0,
        observer: BusObserver | None = None,
    ) -> None:
        self._redis = connection
        self._voice = Publisher(connection, keys)
        self._node_id = node_id
        self._channel = keys.channel(node_id)
        self._probe_interval_s = probe_interval_s
        self._deaf_after_s = deaf_after_s
        self._observer = observer
        self._on_frame: OnFrame = _ignore
        self._on_gap: OnGap = _no_gap
        self._task: asyncio.Task[None] | None = None
        self._gaps: set[asyncio.Task[None]] = set()
        self._subscribed = asyncio.Event()
        self._times_subscribed = 0
        self._probe = 0
        self._probed_at = 0.0
        # When the first of the probes was said that were not heard since; None: nothing said is unheard.
        self._unheard_since: float | None = None

    @property
    def subscribed(self) -> bool:
        """Whether the subscription stands, as far as this node knows."""
        return self._subscribed.is_set()

    async def tell(self, node_id: str, kind: str, *fields: str | bytes) -> int:
        """Say a frame to another node (or to this one); returns how many heard it: 0 is not there, or is deaf.

        The last field may hold anything, the others no newline. Raises StateUnavailable.
        """
        return await self._voice.tell(node_id, kind, *fields)

    async def start(self, *, on_frame: OnFrame, on_gap: OnGap, wait_s: float) -> None:
        """Begin to listen, and wait up to `wait_s` for the first subscription.

        `on_frame(kind, rest)` is called in the order of arrival and must not block; `on_gap()` is run each time
        that the subscription begins to stand: what was published before may have been missed. It runs while frames
        arrive, but none is handed on before its first await.
        """
        self._on_frame, self._on_gap = on_frame, on_gap
        self._task = asyncio.create_task(self._run(), name="bus")
        try:
            async with asyncio.timeout(wait_s):
                await self._subscribed.wait()
        except TimeoutError:
            log.warning("the bus is not subscribed yet; retrying")

    async def close(self) -> None:
        """Stop listening."""
        tasks = [t for t in (self._task, *self._gaps) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None
        self._subscribed.clear()

    # -- the subscription ----------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        backoff = Backoff(RETRY_BASE_S, RETRY_CAP_S)
        while True:
            try:
                subscription = await self._redis.subscribe(self._channel)
            except StateError as exc:
                log.debug("cannot subscribe", extra={"reason": str(exc)})
            else:
                backoff.reset()
                reason = "the subscription failed"
                try:
                    reason = await self._attend(subscription)
                except Exception:
                    log.exception("the bus listener failed")
                finally:
                    self._subscribed.clear()
                    await subscription.close()
                log.warning("the bus lost its subscription", extra={"reason": reason})
            await asyncio.sleep(backoff.next_s())

    async def _attend(self, subscription: Subscription) -> str:
        """Listen until the subscription breaks or turns out to be deaf; returns which."""
        self._unheard_since = None
        self._subscribed.set()
        self._times_subscribed += 1
        if self._observer is not None and self._times_subscribed > 1:
            self._observer.resubscribed()
        gap = asyncio.create_task(self._look_behind_gap(), name="bus-gap")
        self._gaps.add(gap)
        gap.add_done_callback(self._gaps.discard)
        # Its first step marks whose messages may be missing: before any later message is handed on.
        await asyncio.sleep(0)
        subscription.listen(self._take)
        ends: list[asyncio.Future[str]] = [subscription.over]
        if self._probe_interval_s > 0:
            ends.append(asyncio.create_task(self._prove(subscription), name="bus-probe"))
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _look_behind_gap(self) -> None:
        try:
            await self._on_gap()
        except Exception:
            log.exception("cannot look for missed messages")

    def _take(self, frame: bytes) -> None:
        kind, rest = ORDER, frame
        if not frame.startswith(b"{"):
            kind, _, rest = frame.partition(b"\n")
            if kind == PROBE:
                self._heard(rest)
                return
        try:
            self._on_frame(kind, rest)
        except Exception:
            log.exception("cannot handle a frame from the bus", extra={"kind": kind.decode("ascii", "replace")})

    # -- the proof -----------------------------------------------------------------------------------------------------
    async def _prove(self, subscription: Subscription) -> str:
        """Probe until silence proves that nothing is heard; returns why."""
        loop = asyncio.get_running_loop()
        while True:
            await self._say_probe()
            slept_at = loop.time()
            await asyncio.sleep(self._probe_interval_s)
            if loop.time() - slept_at > self._probe_interval_s + self._deaf_after_s / 2:
                # This process was stopped or starved: what came meanwhile has not been read yet.
                self._unheard_since = None
                continue
            if self._unheard_since is not None:
                if self._observer is not None:
                    self._observer.probe_missed()
                if loop.time() - self._unheard_since >= self._deaf_after_s:
                    return "deaf: nothing of what this node says to itself arrives"
            if await self._is_elsewhere(subscription):
                return "another server has taken over the channel"

    async def _say_probe(self) -> None:
        self._probe += 1
        self._probed_at = said_at = asyncio.get_running_loop().time()
        if self._unheard_since is None:
            self._unheard_since = said_at
        try:
            await self._redis.publish(self._channel, b"%b\n%d" % (PROBE, self._probe))
        except StateUnavailable:
            self._unheard_since = None

    def _heard(self, number: bytes) -> None:
        self._unheard_since = None
        if self._observer is not None and number == str(self._probe).encode():
            self._observer.probe_heard(asyncio.get_running_loop().time() - self._probed_at)

    async def _is_elsewhere(self, subscription: Subscription) -> bool:
        try:
            return not await self._redis.serves(subscription)
        except StateUnavailable:
            return False


def _ignore(kind: bytes, rest: bytes) -> None:
    """Before `start`, nobody listens."""


async def _no_gap() -> None:
    """Before `start`, nothing can be missed."""
