"""What every route promises to the one `Connection` that uses it.

A route never waits for long by itself: its caller cancels what takes longer than a call may. It raises redis-py's
errors and OSError; translating them is the caller's affair. After an error it finds the right server again by itself,
with the next command.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

from shared_state.redis.server import Args, Attempt, Replicas, Server
from shared_state.redis.subscription import Subscription

__all__ = ["Args", "Attempt", "Replicas", "Route"]


class Route(ABC):
    """To one server, or to each of several the commands that it has to run."""

    # Whether one server holds all keys and channels. In a Cluster a script may touch the keys of one slot; a node's
    # channel belongs to another than its clients' messages.
    one_server = True
    # Replies that took longer may come from a server that serves no more: they count only once `execute` took them up.
    suspicious_after_s = math.inf

    def lane(self, args: Args) -> str:  # noqa: ARG002 - only a Cluster has more than one
        """Commands with the same lane go to the same server, as far as is known, and may share a pipeline."""
        return ""

    @abstractmethod
    def server(self, lane: str) -> Server | None:
        """Who runs the commands of a lane, if that is known without asking anybody."""

    @abstractmethod
    async def execute(
        self, lane: str, commands: list[Args], replicas: Replicas | None, attempt: Attempt | None
    ) -> list[Any]:
        """A reply or an error reply for each command. With `replicas`, what they do not hold in time is answered with
        NotReplicatedError. An `attempt` is what came of them when they were sent to `server(lane)`: not all of it good.

        Raises redis-py's errors, OSError or RuntimeError when all of it failed; then any of it may have run.
        """

    @abstractmethod
    def doubt(self, lane: str) -> None:
        """A call on this lane broke or took too long: trust no idle socket there, and look anew who serves."""

    @abstractmethod
    def publish_command(self, channel: str, message: bytes) -> Args:
        """The command that publishes here."""

    @abstractmethod
    async def subscribe(self, channel: str) -> Subscription:
        """A subscription to `channel`, on a socket of its own, that stands."""

    @abstractmethod
    async def serves(self, subscription: Subscription) -> bool:
        """Whether what is published now goes through the server that `subscription` listens to."""

    @abstractmethod
    async def servers(self) -> list[Server]:
        """Every server that takes writes."""

    @abstractmethod
    async def close(self) -> None:
        """Release every socket. Safe to repeat."""
