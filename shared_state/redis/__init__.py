"""The ways from a command to the server that has to run it: one server, Sentinel, Cluster.

`route_for` picks one by the URL. Only this package and `connection` know redis-py.
"""

from shared_state.redis.base import Args, Attempt, Replicas, Route
from shared_state.redis.cluster import ClusterRoute
from shared_state.redis.sentinel import SentinelRoute
from shared_state.redis.server import Line, Outcome, Server, shaped
from shared_state.redis.single import SingleRoute
from shared_state.redis.subscription import Subscription
from shared_state.redis.url import parse_redis_url

__all__ = [
    "Args",
    "Attempt",
    "Line",
    "Outcome",
    "Replicas",
    "Route",
    "Server",
    "Subscription",
    "route_for",
    "shaped",
]


def route_for(url: str, *, timeout_s: float, max_sockets: int) -> Route:
    """The route that `url` asks for; no I/O yet. Raises ValueError for an URL that cannot be used.

    `max_sockets` bounds the connections to each server.
    """
    target = parse_redis_url(url)
    if target.kind == "sentinel":
        return SentinelRoute(target, timeout_s=timeout_s, max_sockets=max_sockets)
    if target.kind == "cluster":
        return ClusterRoute(target, timeout_s=timeout_s, max_sockets=max_sockets)
    return SingleRoute(target, timeout_s=timeout_s, max_sockets=max_sockets)
