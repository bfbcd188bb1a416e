"""The sockets that this node holds, by client id.

One socket per client: `put` takes the place of an older one. What happens to one client (registering, going, coming
back) is done under that client's lock, so that the end of an old socket and the start of a new one never mix on this
node; across nodes the registration's fencing does the same.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from aip_cluster.protocol import ClientType
from node.connections.connection import Connection
from node.telemetry.metrics import Metrics

__all__ = ["Hub"]


class Hub:
    """Connections by client id."""

    def __init__(self, metrics: Metrics) -> None:
        self._connections: dict[str, Connection] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._metrics = metrics
        self.counts = dict.fromkeys(ClientType, 0)

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._connections.values()))

    def get(self, client_id: str) -> Connection | None:
        """The client's socket, if this node holds it."""
        return self._connections.get(client_id)

    def put(self, connection: Connection) -> Connection | None:
        """Hold a socket. Returns the one that was held for the client until now."""
        replaced = self._connections.get(connection.client_id)
        if replaced is not None:
            self.remove(replaced)
        self._connections[connection.client_id] = connection
        self._metrics.connections[connection.client_type].inc()
        self.counts[connection.client_type] += 1
        return replaced

    def remove(self, connection: Connection) -> bool:
        """Let a socket go. False if it was not the one held."""
        if self._connections.get(connection.client_id) is not connection:
            return False
        del self._connections[connection.client_id]
        self._metrics.connections[connection.client_type].dec()
        self.counts[connection.client_type] -= 1
        return True

    @asynccontextmanager
    async def lock(self, client_id: str) -> AsyncIterator[None]:
        """Alone with a client. Cancelling while waiting is safe."""
        lock, users = self._locks.get(client_id, (asyncio.Lock(), 0))
        self._locks[client_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(client_id)
            if users > 1:
                self._locks[client_id] = (lock, users - 1)
