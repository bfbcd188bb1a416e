"""Pub/sub between nodes: each node listens on a channel of its own.

A frame is `kind`, then fields, separated by newlines: `inbox\\n<client>\\n<entry>\\n<message>`,
`ended\\n<session>`, `event\\n<session>`, and what nodes ask each other. The bus is a wake-up, never the only copy: a
frame may be lost while a subscription is down. Whenever it is back, `on_gap` is called, and the node looks for itself
at what it may have missed.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from shared_state.connection import Connection
from shared_state.keys import Keys

__all__ = ["Bus"]

log = logging.getLogger(__name__)

OnFrame = Callable[[bytes, bytes], None]
OnGap = Callable[[], Awaitable[None]]

RETRY_BASE_S = 0.1
RETRY_CAP_S = 2.0
LISTEN_S = 1.0


class Bus:
    """The node's ear, and its voice to other nodes.

    One task listens, owned by `start`, ended by `close`; it survives everything but `close`.
    """

    def __init__(self, connection: Connection, keys: Keys, node_id: str) -> None:
        self._redis = connection
        self._keys = keys
        self._channel = keys.channel(node_id)
        self._on_frame: OnFrame = _ignore
        self._on_gap: OnGap = _no_gap
        self._task: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    @property
    def subscribed(self) -> bool:
        """Whether the subscription stands, as far as this node knows."""
        return self._subscribed.is_set()

    async def start(self, *, on_frame: OnFrame, on_gap: OnGap, wait_s: float) -> None:
        """Begin to listen, and wait up to `wait_s` for the first subscription.

        `on_frame(kind, rest)` is called in the order of arrival and must not block; `on_gap()` is awaited each time
        that the subscription begins to stand: what was published before may have been missed.
        """
        self._on_frame, self._on_gap = on_frame, on_gap
        self._task = asyncio.create_task(self._run(), name="bus")
        try:
            async with asyncio.timeout(wait_s):
                await self._subscribed.wait()
        except TimeoutError:
            log.warning("the bus is not subscribed yet; going on trying")

    async def tell(self, node_id: str, kind: str, *fields: str) -> None:
        """Send a frame to another node. Raises StateUnavailable; it may be lost all the same."""
        await self._redis.command("PUBLISH", self._keys.channel(node_id), "\n".join((kind, *fields)))

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._subscribed.clear()

    async def _run(self) -> None:
        delay_s = RETRY_BASE_S
        while True:
            pubsub = self._redis.pubsub()
            try:
                await pubsub.subscribe(self._channel)
                await self._listen(pubsub)
            except (RedisError, OSError, TimeoutError, RuntimeError) as exc:
                # RuntimeError is what uvloop raises for a write to a socket that was cut a moment ago.
                if self._subscribed.is_set():
                    delay_s = RETRY_BASE_S
                    log.warning("the bus lost its subscription", extra={"error": type(exc).__name__})
            finally:
                self._subscribed.clear()
                await _close(pubsub)
            await asyncio.sleep(random.uniform(0, delay_s))  # noqa: S311 - jitter, not a secret
            delay_s = min(delay_s * 2, RETRY_CAP_S)

    async def _look_behind_gap(self) -> None:
        try:
            await self._on_gap()
        except Exception:
            log.exception("what may have been missed was not looked for")

    async def _listen(self, pubsub: PubSub) -> None:
        while True:
            message = await pubsub.get_message(timeout=LISTEN_S)
            if message is None:
                continue
            if message["type"] == "subscribe":
                self._subscribed.set()
                await self._look_behind_gap()
            elif message["type"] == "message":
                kind, _, rest = message["data"].partition(b"\n")
                try:
                    self._on_frame(kind, rest)
                except Exception:
                    log.exception(
                        "a frame from the bus could not be handled",
                        extra={"kind": kind.decode("ascii", "replace")},
                    )


def _ignore(kind: bytes, rest: bytes) -> None:
    """Before `start`, nobody listens."""


async def _no_gap() -> None:
    """Before `start`, nothing can be missed."""


async def _close(pubsub: PubSub) -> None:
    try:
        await pubsub.aclose()  # type: ignore[no-untyped-call]
    except (RedisError, OSError, TimeoutError, RuntimeError):
        log.debug("the subscription was already broken when it was closed")
