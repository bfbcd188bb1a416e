"""The bounds on a node's connections: how many there may be, how fast they may talk, how much they may hold.

One `ConnectionBounds` is shared by all connections of a server. uvicorn hands it to each with its configuration.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import uvicorn

from node.serving.message_memory import Allowance
from node.serving.proxies import Proxies
from node.serving.rate_limit import RateLimit
from node.serving.shares import Shares
from node.settings import Settings
from node.telemetry.metrics import Limit, Metrics

__all__ = ["REGISTRATION_BYTES", "Config", "ConnectionBounds", "Owing"]

# The largest message of a client that has not registered.
REGISTRATION_BYTES = 256 * 1024
# Memory for large messages of all those who have not registered.
UNREGISTERED_BYTES = 64 * 1024 * 1024


class Owing(Protocol):
    """A connection that still owes a request."""

    def refuse(self, limit: Limit) -> None:
        """Cut it."""


@dataclass(slots=True)
class ConnectionBounds:
    """The bounds of one node's connections, and what is counted against them."""

    metrics: Metrics
    max_tcp_connections: int
    head_timeout_s: float
    message_rate_per_s: float
    message_burst: int
    message_patience_s: float
    message_bytes_per_s: float
    message_bytes_burst: int
    # The largest message of a registered client, and the memory for large messages that are arriving.
    max_frame_bytes: int
    arriving: Allowance
    # Their own, so that they keep nobody who is known waiting: most registrations are small enough to need none.
    arriving_unregistered: Allowance = field(default_factory=lambda: Allowance(UNREGISTERED_BYTES))
    # Whose connections are counted, and how many each may have: not those of a trusted proxy, who speaks for many.
    proxies: Proxies = field(default_factory=Proxies)
    address_share: float = 1.0
    # Those who owe a request, longest first.
    owing: dict["Owing", None] = field(default_factory=dict)
    _shares: Shares = field(init=False)

    def __post_init__(self) -> None:
        self._shares = Shares(self.max_tcp_connections, self.address_share)

    @classmethod
    def of(
        cls, settings: Settings, metrics: Metrics, proxies: Proxies, *, max_tcp_connections: int
    ) -> "ConnectionBounds":
        """The bounds of a node with these settings."""
        return cls(
            metrics,
            max_tcp_connections=max_tcp_connections,
            head_timeout_s=settings.head_timeout_s,
            message_rate_per_s=settings.message_rate_per_s,
            message_burst=settings.message_burst,
            message_patience_s=settings.message_patience_s,
            proxies=proxies,
            address_share=settings.address_share,
            message_bytes_per_s=settings.message_bytes_per_s,
            message_bytes_burst=settings.message_bytes_burst,
            max_frame_bytes=settings.max_frame_bytes,
            arriving=Allowance(settings.arriving_bytes),
        )

    def take(self, client: tuple[str, int] | None) -> bool:
        """A place for one more connection of this peer; False if its address has its share of them."""
        host = client[0] if client else ""
        return self.proxies.trusts(host) or self._shares.take(self.proxies.caller_at(host))

    def give(self, client: tuple[str, int] | None) -> None:
        """Give back a place that was taken."""
        host = client[0] if client else ""
        if not self.proxies.trusts(host):
            self._shares.give(self.proxies.caller_at(host))

    def pace(self) -> RateLimit:
        """The pace of one WebSocket."""
        return RateLimit(
            self.message_rate_per_s,
            self.message_burst,
            patience_s=self.message_patience_s,
            bytes_per_s=self.message_bytes_per_s,
            bytes_burst=self.message_bytes_burst,
        )


class Config(uvicorn.Config):
    """uvicorn's configuration, and our bounds: uvicorn gives it to every connection."""

    def __init__(self, app: Any, bounds: ConnectionBounds, **options: Any) -> None:
        super().__init__(app, **options)
        self.bounds = bounds
