"""Files of sessions: in pieces, so that no node and no Redis reply ever holds a whole one.

A file is stored under a transfer id while it arrives, and appears under its name only when it is complete and verified;
until then its pieces live an hour. A file of the same name is replaced. When Redis is away calls raise
`StateUnavailable`, and what had arrived is left to its time to live.
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from shared_state.errors import QuotaReached, StateError
from shared_state.keys import Keys
from shared_state.quotas import FileQuota
from shared_state.redis.connection import Connection

__all__ = ["FileInfo", "FileMismatch", "Files", "TooManyFiles", "Upload"]

ARRIVING_LIFE_S = 3_600
FILES_BOUND = 200
# Two files of the largest, and half of what all sessions may keep by default.
SESSION_BYTES = 256 * 1024 * 1024
PIECE_BYTES = 256 * 1024
# While a file arrives, as much again as has arrived is held of its quota, this at most: not each piece is a call more.
HOLD_AHEAD_BYTES = 16 * PIECE_BYTES


class FileMismatch(StateError):
    """What arrived is not what was announced; `str(error)` says how."""


class TooManyFiles(StateError):
    """The session has as many files, or as large ones, as it may."""

    def __init__(self) -> None:
        super().__init__(f"a session may have {FILES_BOUND} files of {SESSION_BYTES} bytes together")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A stored file. `to_device` files are on their way to the device until `delivered`."""

    name: str
    size: int
    sha256: str
    mime_type: str
    transfer_id: str
    pieces: int
    stored_ms: int
    to_device: bool = False
    delivered: bool = False
    error: str | None = None


class Upload:
    """A file that arrives, one piece after another. Memory holds one piece at a time."""

    def __init__(self, files: "Files", session_id: str, name: str, transfer_id: str, mime_type: str) -> None:
        self._files = files
        self._session_id = session_id
        self._name = name
        self._transfer_id = transfer_id
        self._mime_type = mime_type
        self._md5 = hashlib.md5(usedforsecurity=False)  # UFO's clients know no other
        self._sha256 = hashlib.sha256()
        self._buffer = bytearray()
        self._held = 0
        # The largest that it may become beside the other files of its session; not asked for yet.
        self._most: int | None = None
        self.size = 0
        self.pieces = 0

    async def write(self, data: bytes) -> None:
        """Add bytes. Raises StateUnavailable, TooManyFiles or QuotaReached; after that only `abort` makes sense."""
        self._md5.update(data)
        self._sha256.update(data)
        self.size += len(data)
        self._buffer += data
        while len(self._buffer) >= PIECE_BYTES:
            await self._flush(PIECE_BYTES)

    async def _flush(self, count: int) -> None:
        if self._most is None:
            self._most = await self._files.room(self._session_id, self._name)
        if self.size > self._most:
            raise TooManyFiles
        stored = self.pieces * PIECE_BYTES + count
        if stored > self._held:
            await self._hold(stored, min(stored, HOLD_AHEAD_BYTES) if count == PIECE_BYTES else 0)
        piece = bytes(self._buffer[:count])
        del self._buffer[:count]
        await self._files.put_piece(self._session_id, self._transfer_id, self.pieces, piece)
        self.pieces += 1

    async def _hold(self, size: int, ahead: int) -> None:
        """Have so much of the quota of files; `ahead` more, if that is there."""
        try:
            await self._files.quota.hold(self._transfer_id, size + ahead, ARRIVING_LIFE_S)
            self._held = size + ahead
        except QuotaReached:
            if not ahead:
                raise
            await self._hold(size, 0)

    async def commit(self, *, stored_ms: int, checksum: str | None = None, to_device: bool = False) -> FileInfo:
        """Verify, and let the file appear. `checksum` is hexadecimal: MD5 if it has 32 digits, else SHA-256.

        Raises FileMismatch (nothing is left behind), TooManyFiles, QuotaReached or StateUnavailable.
        """
        digest = self._md5.hexdigest() if checksum is not None and len(checksum) == 32 else self._sha256.hexdigest()
        if checksum is not None and checksum.lower() != digest:
            await self.abort()
            raise FileMismatch(f"the checksum of '{self._name}' is {digest}, not {checksum[:64].lower()}")
        if self._buffer:
            await self._flush(len(self._buffer))
        info = FileInfo(
            name=self._name,
            size=self.size,
            sha256=self._sha256.hexdigest(),
            mime_type=self._mime_type,
            transfer_id=self._transfer_id,
            pieces=self.pieces,
            stored_ms=stored_ms,
            to_device=to_device,
        )
        await self._files.keep(self._session_id, info)
        return info

    async def abort(self) -> None:
        """Remove what has arrived. Safe to repeat."""
        await self._files.drop_pieces(self._session_id, self._transfer_id, self.pieces)


class Files:
    """The files of all sessions."""

    def __init__(self, connection: Connection, keys: Keys, quota: FileQuota, *, result_ttl_s: int) -> None:
        self.quota = quota
        self._redis = connection
        self._keys = keys
        self._result_ttl_s = result_ttl_s

    def upload(self, session_id: str, name: str, transfer_id: str, *, mime_type: str = "") -> Upload:
        """Begin a file. Nothing is stored before the first piece is full."""
        return Upload(self, session_id, name, transfer_id, mime_type or "application/octet-stream")

    async def put_piece(self, session_id: str, transfer_id: str, number: int, piece: bytes) -> None:
        """Store one piece, for an hour."""
        key = self._keys.session_chunk(session_id, transfer_id, number)
        await self._redis.command("SET", key, piece, "EX", ARRIVING_LIFE_S)

    async def keep(self, session_id: str, info: FileInfo) -> None:
        """Let a complete file appear under its name, in place of one that had it.

        Raises TooManyFiles when the session has as many or as large files as it may, and FileMismatch when pieces have
        expired.
        """
        old = await self.find(session_id, info.name)
        # Others may have come while it arrived.
        if await self.room(session_id, info.name) < info.size:
            await self.drop_pieces(session_id, info.transfer_id, info.pieces)
            raise TooManyFiles
        if info.size:
            await self.quota.hold(info.transfer_id, info.size, self._result_ttl_s)
        for number in range(info.pieces):
            piece = self._keys.session_chunk(session_id, info.transfer_id, number)
            if not await self._redis.command("EXPIRE", piece, self._result_ttl_s):
                await self.drop_pieces(session_id, info.transfer_id, info.pieces)
                raise FileMismatch(f"'{info.name}' took too long to arrive")
        await self._note(session_id, info)
        if old is not None and old.transfer_id != info.transfer_id:
            await self.drop_pieces(session_id, old.transfer_id, old.pieces)

    async def room(self, session_id: str, name: str) -> int:
        """How large a file of this name may become, in place of one that has the name; -1 if there may be none."""
        others = [f for f in await self.list(session_id) if f.name != name]
        return -1 if len(others) >= FILES_BOUND else SESSION_BYTES - sum(f.size for f in others)

    async def _note(self, session_id: str, info: FileInfo) -> None:
        key = self._keys.session_files(session_id)
        noted = self._redis.command("HSET", key, info.name, orjson.dumps(asdict(info)))
        await self._redis.command("EXPIRE", key, self._result_ttl_s)
        await noted

    async def mark_delivered(self, session_id: str, name: str, transfer_id: str, error: str | None) -> None:
        """Note how the device took a file; one that was replaced meanwhile is left alone."""
        info = await self.find(session_id, name)
        if info is not None and info.transfer_id == transfer_id:
            await self._note(session_id, replace(info, delivered=error is None, error=error))

    async def drop_pieces(self, session_id: str, transfer_id: str, pieces: int) -> None:
        """Remove the pieces of a transfer. Safe to repeat."""
        for number in range(pieces):
            await self._redis.command("DEL", self._keys.session_chunk(session_id, transfer_id, number))
        await self.quota.free(transfer_id)

    async def find(self, session_id: str, name: str) -> FileInfo | None:
        """What is known of a file, or None."""
        raw = await self._redis.command("HGET", self._keys.session_files(session_id), name)
        return _parse(raw) if raw else None

    async def list(self, session_id: str) -> list[FileInfo]:
        """The session's files, by name."""
        reply: dict[bytes, bytes] = await self._redis.command("HGETALL", self._keys.session_files(session_id))
        return [_parse(reply[name]) for name in sorted(reply)]

    async def read(self, session_id: str, info: FileInfo) -> AsyncIterator[bytes]:
        """The pieces of a file, one at a time. Raises FileMismatch if one has lived out its time."""
        for number in range(info.pieces):
            piece = await self._redis.command("GET", self._keys.session_chunk(session_id, info.transfer_id, number))
            if piece is None:
                raise FileMismatch(f"'{info.name}' is not stored any more")
            yield piece


def _parse(raw: bytes) -> FileInfo:
    data: dict[str, Any] = orjson.loads(raw)
    return FileInfo(**{k: v for k, v in data.items() if k in FileInfo.__slots__})
