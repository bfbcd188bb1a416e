"""How many bytes may be stored of what nobody may ever fetch: tasks that wait for an absent device, and files.

Every quota is exact: an entry is counted before what it stands for is stored, and until that is gone by itself. So an
entry whose node died, or whose call was lost, is at worst counted too long, never too short. A task is counted until a
device takes it, or else until its record has expired; what a device has taken is no longer of concern here. A task is
not counted where its device was connected when it was looked up, and left before the task was stored.

Tasks are counted twice, per client beside the client, and for the whole cluster: two calls, which only a task for an
absent device pays. Every call raises StateUnavailable while Redis is away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared_state.errors import QuotaReached
from shared_state.keys import Keys
from shared_state.redis.connection import Connection
from shared_state.session_record import Session, order_json, stored_fields

__all__ = ["DEFAULT_BOUNDS", "Bounds", "FileQuota", "TaskQuota"]

MIB = 1024 * 1024
# What Redis needs for a task beside its text: its keys, its places in the indexes, and its entries here.
TASK_OVERHEAD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """The quotas, in bytes: of one client, of all that came with one credential, and of the cluster."""

    queued_of_client: int = 8 * MIB
    queued_of_credential: int = 256 * MIB
    queued: int = 256 * MIB
    files_of_credential: int = 512 * MIB
    files: int = 512 * MIB


DEFAULT_BOUNDS = Bounds()


class _Quota:
    """What is counted under a pair of keys."""

    def __init__(self, connection: Connection, credential: str) -> None:
        self._redis = connection
        # One key for all today: what a credential of its own shows will be told with each call.
        self._credential = credential

    async def hold(self, keys: Sequence[str], entry_id: str, size: int, life_ms: int, bounds: tuple[int, int]) -> int:
        """0 if it fits, 1 if it is over the first of `bounds`, of all, and 2 over the second, of the credential."""
        args: list[str | int] = [entry_id, size, life_ms, self._credential, *bounds]
        return int(await self._redis.script("quota_hold", keys, args))

    async def free(self, keys: Sequence[str], entry_ids: Sequence[str]) -> None:
        await self._redis.script("quota_free", keys, entry_ids)


class TaskQuota:
    """Tasks that wait for devices that are not connected."""

    def __init__(
        self, connection: Connection, keys: Keys, bounds: Bounds, *, credential: str, result_ttl_s: int
    ) -> None:
        self._quota = _Quota(connection, credential)
        self._keys = keys
        self._of_all = (keys.waiting_anywhere(), keys.waiting_bytes_anywhere())
        self._bounds = bounds
        self._result_ttl_s = result_ttl_s

    async def hold(self, session: Session) -> None:
        """Count a task that is about to be stored. Raises QuotaReached, and then it is not counted. Safe to repeat."""
        b, session_id = self._bounds, session.session_id
        size = TASK_OVERHEAD_BYTES + len(order_json(session, commands=False))
        size += sum(len(x) for x in stored_fields(session) if isinstance(x, str | bytes))
        life_ms = int((session.span_s + self._result_ttl_s) * 1000)
        of_client, of_all = self._of_client(session.client_id), self._of_all
        if await self._quota.hold(of_client, session_id, size, life_ms, (b.queued_of_client,) * 2):
            raise _reached(f"tasks that wait for '{session.client_id}'", b.queued_of_client, "per_client")
        over = await self._quota.hold(of_all, session_id, size, life_ms, (b.queued, b.queued_of_credential))
        if over:
            await self._quota.free(of_client, [session_id])
            if over == 1:
                raise _reached("tasks that wait for devices", b.queued, "")
            raise _reached("tasks of this credential that wait for devices", b.queued_of_credential, "per_credential")

    async def free(self, client_id: str, session_ids: Sequence[str]) -> None:
        """Its device has taken the tasks, or they were not stored: they count no more. Safe to repeat."""
        await self._quota.free(self._of_all, session_ids)
        await self._quota.free(self._of_client(client_id), session_ids)

    def _of_client(self, client_id: str) -> tuple[str, str]:
        return self._keys.waiting(client_id), self._keys.waiting_bytes(client_id)


class FileQuota:
    """Files of all sessions, by their transfer ids."""

    def __init__(self, connection: Connection, keys: Keys, bounds: Bounds, *, credential: str) -> None:
        self._quota = _Quota(connection, credential)
        self._of_all = (keys.files_anywhere(), keys.file_bytes_anywhere())
        self._bounds = bounds

    async def hold(self, transfer_id: str, size: int, life_s: int) -> None:
        """Count a file as of this size. Raises QuotaReached, and then it counts as before. Safe to repeat."""
        b = self._bounds
        over = await self._quota.hold(self._of_all, transfer_id, size, life_s * 1000, (b.files, b.files_of_credential))
        if over == 1:
            raise QuotaReached(f"The files of all sessions take {b.files} bytes, as many as they may (max_files_bytes)")
        if over:
            raise QuotaReached(
                f"The files that came with this credential take {b.files_of_credential} bytes, as many as they may "
                "(max_files_bytes_per_credential)"
            )

    async def free(self, transfer_id: str) -> None:
        """The file is gone. Safe to repeat."""
        await self._quota.free(self._of_all, [transfer_id])


def _reached(what: str, bound: int, which: str) -> QuotaReached:
    setting = "max_queued_bytes" + (which and f"_{which}")
    return QuotaReached(
        f"The {what} take {bound} bytes, as many as they may ({setting}); connect the device, or ask again later"
    )
