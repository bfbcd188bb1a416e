"""Files from a node to this device.

A file appears under its name, in the folder `files` of the working folder, only once all of it is there and its size
and checksum are right; before that it is a hidden `.part` file, removed when anything goes wrong, when the connection
ends, and at the agent's next start. One transfer at a time: a new one ends an unfinished one. Each transfer is
answered once, whatever became of it.
"""

import asyncio
import errno
import hashlib
import hmac
import logging
import os
import re
import shutil
import threading
import unicodedata
from pathlib import Path
from typing import Any

from aip_cluster.device.files import frames
from aip_cluster.device.files.frames import ChunkHeader, Complete, FrameError, Start
from aip_cluster.device.workspace import Workspace, WorkspaceError
from aip_cluster.protocol import new_id

__all__ = ["FOLDER", "FileReceiver", "safe_name"]

logger = logging.getLogger(__name__)

FOLDER = "files"
MAX_NAME_BYTES = 200
_PART = re.compile(r"\..+\.part")


class _Refused(Exception):
    """The transfer cannot go on; the text is for the sender."""


def safe_name(name: str) -> str:
    """The file name that a peer's name becomes: its last part, without control characters or leading dots.

    Raises ValueError if nothing is left of it.
    """
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(char for char in last if unicodedata.category(char)[0] != "C").strip().lstrip(". ")
    stem, dot, suffix = kept.rpartition(".")
    if not dot or len(suffix.encode()) > 16:
        stem, dot, suffix = kept, "", ""
    room = MAX_NAME_BYTES - len((dot + suffix).encode())
    kept = stem.encode()[:room].decode(errors="ignore") + dot + suffix
    if not kept:
        raise ValueError("the file has no name that can be used")
    return kept


class _Part:
    """The file while it arrives. Used by threads; `discard` waits for a write that is under way."""

    def __init__(self, folder: Path, name: str) -> None:
        self.target = folder / name
        self._path = folder / f".{name}.{new_id()[-12:]}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o666)
        self._lock = threading.Lock()
        self._open = True
        self.size = 0
        self._digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}

    def write(self, data: bytes) -> None:
        with self._lock:
            view = memoryview(data)
            while view and self._open:
                view = view[os.write(self._fd, view) :]
            for digest in self._digests.values():
                digest.update(data)
            self.size += len(data)

    def digest(self, algorithm: str) -> str:
        return self._digests[algorithm].hexdigest()

    def keep(self) -> None:
        """Make it the file that it was to become."""
        with self._lock:
            if not self._open:
                raise _Refused("the transfer was given up")
            os.fsync(self._fd)
            self._path.replace(self.target)
            self._close()

    def discard(self) -> None:
        """Remove it. May be called again, and after `keep`."""
        with self._lock:
            if self._open:
                self._close()
                self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        self._open = False
        os.close(self._fd)


class _Incoming:
    """One transfer. `part` is None once it has failed: the rest of its frames are passed over."""

    def __init__(self, start: Start, name: str, part: _Part | None) -> None:
        self.start = start
        self.name = name
        self.part = part
        self.chunks = 0
        self.first = 0


class FileReceiver:
    """Takes the frames of one connection, in order; every method returns the answers that are due, as a rule none."""

    def __init__(self, workspace: Workspace, *, max_file_bytes: int) -> None:
        self._workspace = workspace
        self._max_file_bytes = max_file_bytes
        self._current: _Incoming | None = None
        self._header: ChunkHeader | None = None

    @property
    def expects_chunk(self) -> bool:
        """Whether the next binary frame belongs to a transfer."""
        return self._header is not None

    def clean(self) -> None:
        """Remove what an earlier run of the agent left unfinished. Blocks on the disk."""
        try:
            folder = self._workspace.resolve(FOLDER)
            for path in folder.iterdir() if folder.is_dir() else ():
                if _PART.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                    path.unlink(missing_ok=True)
        except (OSError, WorkspaceError) as exc:
            logger.warning("unfinished files could not be removed: %s", exc)

    async def on_frame(self, frame: dict[str, Any]) -> list[bytes]:
        """Take a text frame. Cancelling leaves the transfer to `abort`."""
        kind = frame["type"]
        try:
            if kind == "file_transfer_start":
                return await self._on_start(Start.read(frame))
            if kind == "binary_data":
                return await self._on_header(ChunkHeader.read(frame))
            return await self._on_complete(Complete.read(frame))
        except FrameError as exc:
            if kind == "binary_data":
                # Its binary frame comes all the same, and must not be taken for something else.
                self._header = ChunkHeader(None, None, None)
            if self._current is not None:
                return await self._fail(str(exc))
            if kind == "file_transfer_start":
                return [_refusal(frame, str(exc))]
            logger.warning("ignored a frame of a file transfer: %s", exc)
            return []

    async def on_chunk(self, data: bytes) -> list[bytes]:
        """Take the binary frame that the last text frame announced."""
        header, self._header = self._header, None
        incoming = self._current
        if header is None or incoming is None or incoming.part is None:
            return []
        if header.size is not None and header.size != len(data):
            return await self._fail(f"chunk {incoming.chunks} has {len(data)} bytes, not {header.size} as announced")
        if incoming.part.size + len(data) > incoming.start.size:
            return await self._fail(f"more bytes than the {incoming.start.size} that were announced")
        try:
            await asyncio.to_thread(incoming.part.write, data)
        except OSError as exc:
            return await self._fail(_disk_error(exc))
        incoming.chunks += 1
        return []

    async def abort(self) -> None:
        """The connection is over: nothing of an unfinished file stays."""
        incoming, self._current, self._header = self._current, None, None
        if incoming is not None and incoming.part is not None:
            logger.warning("file %r did not arrive: the connection ended", incoming.name)
            await asyncio.to_thread(incoming.part.discard)

    async def _on_start(self, start: Start) -> list[bytes]:
        answers = await self._fail("another transfer began before this one was complete")
        self._header = None
        try:
            name = safe_name(start.filename)
        except ValueError as exc:
            self._current = _Incoming(start, "", None)
            return [*answers, frames.answer(start, str(exc))]
        self._current = _Incoming(start, name, None)
        try:
            self._current.part = await asyncio.to_thread(self._create, name, start.size)
        except (OSError, WorkspaceError, _Refused) as exc:
            text = _disk_error(exc) if isinstance(exc, OSError) else str(exc)
            answers.append(frames.answer(start, text))
        return answers

    def _create(self, name: str, size: int) -> _Part:
        if size > self._max_file_bytes:
            raise _Refused(f"the file has {size} bytes, and this device takes {self._max_file_bytes} at most")
        folder = self._workspace.resolve(FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / name).is_dir():
            raise _Refused(f"{name!r} is a folder on this device")
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return _Part(folder, name)

    async def _on_header(self, header: ChunkHeader) -> list[bytes]:
        before, self._header = self._header, header
        incoming = self._current
        if incoming is None or incoming.part is None:
            return []
        if before is not None:
            return await self._fail(f"chunk {incoming.chunks} was announced and did not come")
        if header.transfer_id not in {None, incoming.start.transfer_id}:
            return await self._fail("a chunk of another transfer came between its chunks")
        if header.number is not None:
            # Senders count from 0, or from 1.
            incoming.first = header.number if incoming.chunks == 0 and header.number <= 1 else incoming.first
            due = incoming.first + incoming.chunks
            if header.number != due:
                return await self._fail(f"chunk {header.number} came where chunk {due} was due")
        return []

    async def _on_complete(self, end: Complete) -> list[bytes]:
        incoming, header = self._current, self._header
        if incoming is None:
            logger.warning("ignored the end of a file transfer that never began")
            return []
        if end.transfer_id not in {None, incoming.start.transfer_id}:
            return await self._fail("the end of another transfer came before its own")
        if incoming.part is None:
            self._current = None
            return []
        start, part = incoming.start, incoming.part
        if end.error is not None:
            error: str | None = f"given up by the sender: {end.error[:200]}"
        elif header is not None:
            error = f"chunk {incoming.chunks} was announced and did not come"
        elif part.size != start.size:
            error = f"{part.size} bytes came, not {start.size} as announced"
        elif end.total_chunks not in {None, incoming.chunks}:
            error = f"{incoming.chunks} chunks came, not {end.total_chunks} as announced"
        else:
            error = _checksum_error(end, part)
        if error is None:
            try:
                await asyncio.to_thread(part.keep)
            except (OSError, _Refused) as exc:
                error = _disk_error(exc) if isinstance(exc, OSError) else str(exc)
        if error is not None:
            answers = await self._fail(error)
            self._current = None
            return answers
        self._current = None
        logger.info("file %r arrived: %d bytes", incoming.name, part.size)
        return [frames.answer(start, None, stored_as=incoming.name, checksum=part.digest("sha256"))]

    async def _fail(self, error: str) -> list[bytes]:
        """End the transfer, and say so unless that was said before."""
        incoming = self._current
        if incoming is None or incoming.part is None:
            return []
        part, incoming.part = incoming.part, None
        await asyncio.to_thread(part.discard)
        logger.warning("file %r did not arrive: %s", incoming.name, error)
        return [frames.answer(incoming.start, error)]


def _checksum_error(end: Complete, part: _Part) -> str | None:
    if end.checksum is None:
        return "the checksum is missing"
    algorithm = end.algorithm or ("md5" if len(end.checksum) == 32 else "sha256")
    if algorithm not in {"md5", "sha256"}:
        return "the checksum must be md5 or sha256"
    if not hmac.compare_digest(part.digest(algorithm).encode(), end.checksum.encode(errors="replace")):
        return f"the {algorithm} checksum is not that of what came"
    return None


def _disk_error(exc: OSError) -> str:
    if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "there is no room for it on the device's disk"
    return f"it cannot be written on the device: {exc.strerror or exc}"


def _refusal(frame: dict[str, Any], error: str) -> bytes:
    """The answer to a start that cannot be read."""

    def text(field: str) -> str | None:
        value = frame.get(field)
        return value[:256] if isinstance(value, str) else None

    start = Start(text("filename") or "", 0, None, text("session_id"), text("transfer_id"))
    return frames.answer(start, error)
