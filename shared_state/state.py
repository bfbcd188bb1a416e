"""The parts of the shared state, put together once for a process."""

from shared_state.asked import Asked
from shared_state.batches import Batches
from shared_state.bus import Bus, BusObserver
from shared_state.clients import Clients
from shared_state.clock import Clock
from shared_state.delay_queue import DelayQueue
from shared_state.end_batch import EndBatch
from shared_state.events import Events
from shared_state.files import Files
from shared_state.idempotency import Idempotency
from shared_state.inbox import Inbox
from shared_state.keys import Keys
from shared_state.memory import Memory
from shared_state.nodes import Nodes
from shared_state.quotas import DEFAULT_BOUNDS, Bounds, FileQuota, TaskQuota
from shared_state.redis.connection import Connection, Observer, OnSaid
from shared_state.redis.server_check import check_servers
from shared_state.session_create import SessionCreator
from shared_state.session_index import SessionIndex
from shared_state.sessions import Sessions

__all__ = ["State"]


class State:
    """All nouns of the cluster over one connection. No I/O before the first call."""

    def __init__(
        self,
        redis_url: str,
        *,
        prefix: str = "aip",
        lease_ttl_s: float = 4.5,
        result_ttl_s: int = 86_400,
        idempotency_ttl_s: int = 86_400,
        max_sessions_per_device: int = 64,
        timeout_s: float = 5.0,
        min_replicas: int = 0,
        replica_wait_ms: int = 500,
        queue_share: float = 0.9,
        task_share: float = 0.95,
        bounds: Bounds = DEFAULT_BOUNDS,
        credential: str = "",
        observer: Observer | None = None,
        on_said: OnSaid | None = None,
    ) -> None:
        self.keys = Keys(prefix)
        self._embedded = redis_url.startswith("embedded:")
        self.connection = Connection(
            redis_url,
            timeout_s=timeout_s,
            min_replicas=min_replicas,
            replica_wait_ms=replica_wait_ms,
            observer=observer,
            on_said=on_said,
        )
        self.memory = Memory(self.connection, queue_share=queue_share, task_share=task_share)
        self.clock = Clock()
        self.nodes = Nodes(self.connection, self.keys, self.clock, lease_ttl_s=lease_ttl_s)
        self.clients = Clients(self.connection, self.keys, self.nodes)
        self.inbox = Inbox(self.connection, self.keys, result_ttl_s=result_ttl_s, max_sessions=max_sessions_per_device)
        self._index = SessionIndex(self.connection, self.keys)
        self.sessions = Sessions(self.connection, self.keys, self._index, self.clock, result_ttl_s=result_ttl_s)
        self.session_creator = SessionCreator(
            self.connection,
            self.keys,
            self._index,
            result_ttl_s=result_ttl_s,
            max_sessions=max_sessions_per_device,
        )
        self.end_batch = EndBatch(self.connection, self.keys, self.clock, result_ttl_s=result_ttl_s)
        self.batches = Batches(self.connection, self.keys, result_ttl_s=result_ttl_s)
        self.waiting = TaskQuota(self.connection, self.keys, bounds, credential=credential, result_ttl_s=result_ttl_s)
        quota = FileQuota(self.connection, self.keys, bounds, credential=credential)
        self.files = Files(self.connection, self.keys, quota, result_ttl_s=result_ttl_s)
        self.delay_queue = DelayQueue(self.connection, self.keys)
        self.asked = Asked(self.connection, self.keys, self.clock)
        self.idempotency = Idempotency(self.connection, self.keys, ttl_s=idempotency_ttl_s)
        self.events = Events(self.connection, self.keys)

    def bus(
        self,
        node_id: str,
        *,
        probe_interval_s: float = 2.0,
        deaf_after_s: float = 6.0,
        observer: BusObserver | None = None,
    ) -> Bus:
        """The bus as `node_id` hears it. `probe_interval_s` 0: it is never asked whether it hears."""
        return Bus(
            self.connection,
            self.keys,
            node_id,
            probe_interval_s=probe_interval_s,
            deaf_after_s=deaf_after_s,
            observer=observer,
        )

    async def check_servers(self) -> list[str]:
        """Warn in the log of Redis servers that are set up so that data would be lost; returns the warnings."""
        return [] if self._embedded else await check_servers(self.connection)

    async def close(self) -> None:
        """Flush what waits and close the connection."""
        await self.memory.close()
        await self.end_batch.flush()
        await self.events.close()
        await self._index.close()
        await self.connection.close()
