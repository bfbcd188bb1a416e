"""Files from this device to the node.

One file at a time, streamed from disk in chunks of 256 KiB. A file counts as sent when the node says that it is
stored and verified. When the connection breaks before that, the file is sent once more over the next one, from its
beginning; when that breaks too, or the node refuses it, sending fails with a text that says so.
"""

import asyncio
import hashlib
import logging
import os
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from aip_cluster.device.files import frames
from aip_cluster.device.wire import Wire
from aip_cluster.protocol import ServerMessage, ServerMessageType, new_id

__all__ = ["FileSender", "FileSource", "SendFailed", "Sent"]

logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
MAX_ATTEMPTS = 2
MAX_WAITING = 32


class SendFailed(Exception):
    """The file did not arrive; `str(error)` is a sentence for whoever asked."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A file that the node has."""

    name: str
    size: int
    sha256: str


class FileSource:
    """An open file, read by threads. Takes over the descriptor; closing waits for a read that is under way."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._closed = False
        self.size = os.fstat(fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises SendFailed if the file has become shorter, OSError if it cannot be read."""
        with self._lock:
            if self._closed:
                raise SendFailed("the file was closed")
            data = os.pread(self._fd, size, offset)
        if len(data) < size:
            raise SendFailed("the file became shorter while it was being sent")
        return data

    def close(self) -> None:
        """May be called again."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._fd)


class _Transfer:
    """One file on its way."""

    def __init__(self, source: FileSource, name: str, session_id: str) -> None:
        self.source = source
        self.name = name
        self.session_id = session_id
        self.transfer_id = new_id()
        self.attempts = 0
        self.refused = False
        self.result: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()

    def fail(self, error: str) -> None:
        if not self.result.done():
            self.result.set_exception(SendFailed(error))


class FileSender:
    """Sends files over whichever connection there is. Belongs to one event loop."""

    def __init__(self, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._chunk_bytes = chunk_bytes
        self._waiting: deque[_Transfer] = deque()
        self._filled = asyncio.Event()
        # Sent in full on this connection, by id, each with what the node should have.
        self._unconfirmed: dict[str, tuple[_Transfer, Sent]] = {}
        self._current: _Transfer | None = None

    async def send(self, source: FileSource, name: str, session_id: str, *, timeout_s: float) -> Sent:
        """Send a file and wait until the node has it. Raises SendFailed. Cancelling stops the transfer.

        Closes `source`.
        """
        if len(self._waiting) >= MAX_WAITING:
            source.close()
            raise SendFailed(f"{MAX_WAITING} other files wait to be sent")
        transfer = _Transfer(source, name, session_id)
        self._waiting.append(transfer)
        self._filled.set()
        try:
            await asyncio.wait([transfer.result], timeout=timeout_s)
            if not transfer.result.done():
                raise SendFailed(f"the cluster has not confirmed {name!r} within {timeout_s:g} s")
            return transfer.result.result()
        finally:
            # The connection's task sees that nobody waits any more, and tells the node.
            transfer.result.cancel()
            self._unconfirmed.pop(transfer.transfer_id, None)
            if transfer in self._waiting:
                self._waiting.remove(transfer)
            source.close()

    async def serve(self, wire: Wire) -> None:
        """Send what waits and what comes, for as long as this connection lasts. Raises ConnectionClosed."""
        try:
            while True:
                while not self._waiting:
                    self._filled.clear()
                    await self._filled.wait()
                self._current = self._waiting.popleft()
                await self._stream(wire, self._current)
                self._current = None
        finally:
            self._interrupted()

    def on_answer(self, message: ServerMessage) -> bool:
        """Take the node's word on a transfer. False: the message is about something else."""
        transfer_id = message.response_id
        if transfer_id is None:
            return False
        transfer, sent = self._unconfirmed.get(transfer_id, (None, None))
        if transfer is None and self._current is not None and self._current.transfer_id == transfer_id:
            transfer = self._current
        if transfer is None:
            return False
        if message.type is ServerMessageType.ERROR:
            transfer.refused = True
            transfer.fail(f"the cluster refused {transfer.name!r}: {(message.error or 'it gave no reason')[:500]}")
        elif message.type is ServerMessageType.HEARTBEAT and sent is not None:
            if not transfer.result.done():
                transfer.result.set_result(sent)
        else:
            return False
        self._unconfirmed.pop(transfer_id, None)
        return True

    async def _stream(self, wire: Wire, transfer: _Transfer) -> None:
        """One attempt at one file. Raises ConnectionClosed; whatever else goes wrong is the transfer's."""
        transfer.attempts += 1
        transfer.transfer_id = transfer_id = new_id()
        name, size, session_id = transfer.name, transfer.source.size, transfer.session_id
        await wire.send(frames.start(name, size, self._chunk_bytes, session_id, transfer_id))
        digest = hashlib.sha256()
        chunks = 0
        for offset in range(0, size, self._chunk_bytes):
            if transfer.result.done():
                break
            try:
                data = await asyncio.to_thread(
                    _read, transfer.source, offset, min(self._chunk_bytes, size - offset), digest
                )
            except (OSError, SendFailed) as exc:
                transfer.fail(str(exc))
                break
            await wire.send_chunk(frames.chunk_header(chunks, len(data), transfer_id), data)
            chunks += 1
        if chunks * self._chunk_bytes < size:
            # One that the node refused has ended there; of any other it must hear that no more will come.
            if not transfer.refused:
                await wire.send(frames.abandoned(name, _reason(transfer), session_id, transfer_id))
            return
        sent = Sent(name, size, digest.hexdigest())
        if not transfer.result.done():
            self._unconfirmed[transfer_id] = (transfer, sent)
        await wire.send(frames.complete(name, chunks, sent.sha256, session_id, transfer_id))
        logger.info("file %r of session %r sent: %d bytes", name, session_id, size)

    def _interrupted(self) -> None:
        """The connection is over: what the node has not confirmed waits for the next one, unless it did before."""
        broken = [transfer for transfer, _ in self._unconfirmed.values()]
        if self._current is not None:
            broken.append(self._current)
        self._unconfirmed.clear()
        self._current = None
        for transfer in reversed(list(dict.fromkeys(broken))):
            if transfer.result.done():
                continue
            if transfer.attempts < MAX_ATTEMPTS:
                logger.info("file %r will be sent again: the connection ended", transfer.name)
                self._waiting.appendleft(transfer)
            else:
                transfer.fail(
                    f"the connection to the cluster broke {MAX_ATTEMPTS} times while {transfer.name!r} was sent"
                )


def _read(source: FileSource, offset: int, size: int, digest: Any) -> bytes:
    data = source.read(offset, size)
    digest.update(data)
    return data


def _reason(transfer: _Transfer) -> str:
    if transfer.result.cancelled():
        return "the file is not wanted any more"
    return str(transfer.result.exception() or "given up")
