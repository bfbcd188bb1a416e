"""Batches: many tasks asked for at once, and what became of each.

A batch is a hash with one field for the whole and one for each item. It says what was expected before anything is
sent, so that what never came can be told from what was never asked for. Sessions hold the results; a batch holds their
ids. If the node that works a batch off dies, the items that it had not sent yet stay as they are: missing.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from shared_state.keys import Keys
from shared_state.redis.connection import Connection

__all__ = ["Batch", "BatchItem", "Batches"]

META = "meta"


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One task of a batch. Without a `session_id` it was not sent: not yet, or `error` says why not."""

    client_id: str
    task_name: str | None = None
    session_id: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as stored."""

    batch_id: str
    node_id: str
    created_ms: int
    window: int
    items: list[BatchItem] = field(default_factory=list)


class Batches:
    """The batches of the cluster."""

    def __init__(self, connection: Connection, keys: Keys, *, result_ttl_s: int) -> None:
        self._redis = connection
        self._keys = keys
        self._result_ttl_s = result_ttl_s

    async def create(self, batch: Batch, *, longest_s: float) -> None:
        """Store a batch with all its items, for the retention of results after its longest task."""
        key = self._keys.batch(batch.batch_id)
        meta = {"node_id": batch.node_id, "created_ms": batch.created_ms, "window": batch.window}
        fields: list[str | bytes] = [META, orjson.dumps(meta)]
        for number, item in enumerate(batch.items):
            fields += [str(number), orjson.dumps(asdict(item))]
        stored = self._redis.command("HSET", key, *fields)
        await self._redis.command("EXPIRE", key, int(longest_s) + self._result_ttl_s)
        await stored

    async def note(self, batch_id: str, number: int, item: BatchItem) -> None:
        """Store what became of an item, if the batch is stored still."""
        await self._redis.script("batch_note", [self._keys.batch(batch_id)], [number, orjson.dumps(asdict(item))])

    async def find(self, batch_id: str) -> Batch | None:
        """The batch with its items in order, or None."""
        fields: dict[bytes, bytes] = await self._redis.command("HGETALL", self._keys.batch(batch_id))
        raw = fields.pop(META.encode(), None)
        if raw is None:
            return None
        meta: dict[str, Any] = orjson.loads(raw)
        items = [BatchItem(**orjson.loads(fields[n])) for n in sorted(fields, key=int)]
        return Batch(batch_id, meta["node_id"], meta["created_ms"], meta["window"], items)
