"""Files between devices and the cluster, over the device's socket.

In: headers and binary frames in UFO's form become a file of the session that the device runs; it appears when it is
complete and its checksum fits, and the device is told. One file at a time per socket; each binary frame is stored
before the next is read, so that a fast device waits and memory stays flat. Out: a stored file is sent piece by piece,
each after the one before has left. What goes wrong ends that transfer, not the socket.
"""

import asyncio
import logging
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from aip_cluster.protocol import ProtocolError, ServerMessage, ServerMessageType, encode, new_id, utc_now
from aip_cluster.protocol.features import FILES
from aip_cluster.protocol.files import BinaryData, FileComplete, FileFrame, FileStart, check_file_name
from aip_cluster.protocol.ids import now_ms
from node.connections.connection import Connection
from node.sessions.runner import Runner
from shared_state import State
from shared_state.errors import StateError, StateUnavailable
from shared_state.files import FileInfo, FileMismatch, Upload

__all__ = ["Transfers"]

log = logging.getLogger(__name__)

# Of a frame, so much is hashed at a time.
WRITTEN_BYTES = 1024 * 1024


@dataclass(slots=True)
class Incoming:
    """A file on its way in. `expected` is the size of the binary frame that is due, None if a header is."""

    session_id: str
    name: str
    reference: str
    size: int
    upload: Upload
    total_chunks: int
    chunks: int = 0
    expected: int | None = None
    # A file of one frame: complete after it.
    checksum: str | None = None
    single: bool = False


class Transfers:
    """All transfers of the node's sockets."""

    def __init__(self, state: State, runner: Runner, *, max_file_bytes: int) -> None:
        self._state = state
        self._runner = runner
        self._max_file_bytes = max_file_bytes
        self._incoming: dict[str, Incoming] = {}
        # One file at a time to each device: its side of the wire form knows no more.
        self._sending: WeakKeyDictionary[Connection, asyncio.Lock] = WeakKeyDictionary()

    # -- in ----------------------------------------------------------------------------------------------------------
    def expects_binary(self, connection: Connection) -> bool:
        """Whether the next binary frame of this socket is a piece of a file."""
        incoming = self._incoming.get(connection.connection_id)
        return incoming is not None and incoming.expected is not None

    async def on_header(self, connection: Connection, frame: FileFrame) -> None:
        """A text frame about a file. Answers the device when it is wrong."""
        try:
            if isinstance(frame, FileStart):
                await self._begin(connection, frame, single=None)
            elif isinstance(frame, BinaryData):
                await self._announce(connection, frame)
            elif frame.status is not None:
                await self._confirmed(connection, frame)
            else:
                await self._complete(connection, frame)
        except (ProtocolError, StateError) as exc:
            await self._fail(connection, str(exc), frame)

    async def _begin(self, connection: Connection, frame: FileStart, *, single: BinaryData | None) -> None:
        await self.abort(connection)
        name = check_file_name(frame.filename)
        if frame.size > self._max_file_bytes:
            raise ProtocolError(f"is above the limit of {self._max_file_bytes} bytes", field="size")
        session_id = self._runner.session_for_file(connection, frame.session_id)
        if session_id is None:
            raise ProtocolError("no session of this id runs on this device", field="session_id")
        self._state.memory.check(waits=True)
        reference = frame.transfer_id or name
        mime_type = (frame.mime_type or "")[:128]
        self._incoming[connection.connection_id] = Incoming(
            session_id=session_id,
            name=name,
            reference=reference,
            size=frame.size,
            upload=self._state.files.upload(session_id, name, new_id(), mime_type=mime_type),
            total_chunks=frame.total_chunks,
            checksum=single.checksum if single else None,
            single=single is not None,
        )

    async def _announce(self, connection: Connection, frame: BinaryData) -> None:
        incoming = self._incoming.get(connection.connection_id)
        if incoming is None or (frame.filename is not None and frame.chunk_num is None):
            if frame.filename is None:
                raise ProtocolError("file_chunk without a file_transfer_start before it", field="type")
            start = FileStart(
                filename=frame.filename,
                size=frame.size,
                total_chunks=1,
                mime_type=frame.mime_type,
                session_id=frame.session_id,
                transfer_id=frame.transfer_id,
            )
            await self._begin(connection, start, single=frame)
            incoming = self._incoming[connection.connection_id]
        if incoming.expected is not None:
            raise ProtocolError("expected a binary frame, got another file_chunk header", field="type")
        if frame.chunk_num is not None and frame.chunk_num != incoming.chunks:
            raise ProtocolError(f"must be {incoming.chunks}: send chunks in order", field="chunk_num")
        if incoming.upload.size + frame.size > incoming.size:
            raise ProtocolError("the chunks are larger than the announced file", field="size")
        incoming.expected = frame.size

    async def on_binary(self, connection: Connection, data: bytes | bytearray) -> None:
        """A binary frame that was due."""
        incoming = self._incoming[connection.connection_id]
        try:
            if len(data) != incoming.expected:
                raise ProtocolError(f"the binary frame has {len(data)} bytes, its header announced {incoming.expected}")
            incoming.expected = None
            incoming.chunks += 1
            for start in range(0, len(data), WRITTEN_BYTES):
                await incoming.upload.write(bytes(data[start : start + WRITTEN_BYTES]))
            if incoming.single:
                await self._store(connection, incoming, incoming.checksum)
        except (ProtocolError, StateError) as exc:
            await self._fail(connection, str(exc), None)

    async def _complete(self, connection: Connection, frame: FileComplete) -> None:
        incoming = self._incoming.get(connection.connection_id)
        if incoming is None:
            raise ProtocolError("no transfer is in progress; send file_transfer_start first", field="type")
        if incoming.chunks != incoming.total_chunks or incoming.upload.size != incoming.size:
            raise ProtocolError(
                f"{incoming.upload.size} bytes in {incoming.chunks} pieces came, "
                f"{incoming.size} in {incoming.total_chunks} were announced"
            )
        await self._store(connection, incoming, frame.checksum)

    async def _store(self, connection: Connection, incoming: Incoming, checksum: str | None) -> None:
        info = await incoming.upload.commit(stored_ms=now_ms(), checksum=checksum)
        del self._incoming[connection.connection_id]
        await self._state.sessions.advance(
            incoming.session_id, None, event={"event": "file", "name": info.name, "size": info.size}
        )
        connection.send(
            ServerMessage(
                type=ServerMessageType.HEARTBEAT, session_id=incoming.session_id, response_id=incoming.reference
            )
        )

    async def _fail(self, connection: Connection, error: str, frame: FileFrame | None) -> None:
        incoming = self._incoming.get(connection.connection_id)
        reference = incoming.reference if incoming else None
        if reference is None and frame is not None:
            reference = frame.transfer_id or getattr(frame, "filename", None)
        await self.abort(connection)
        log.info("a file was refused", extra={"client_id": connection.client_id, "error": error})
        connection.send_error(error, request_id=reference, session_id=incoming.session_id if incoming else None)

    async def abort(self, connection: Connection) -> None:
        """Forget what is on its way in over this socket, also when the socket is gone."""
        incoming = self._incoming.pop(connection.connection_id, None)
        if incoming is not None:
            try:
                await incoming.upload.abort()
            except StateUnavailable:
                log.debug("cannot delete the file's pieces; they expire")

    # -- out ---------------------------------------------------------------------------------------------------------
    async def send(self, connection: Connection, session_id: str, name: str) -> None:
        """Send a stored file to the device. Cancelling leaves the device with a part that it drops."""
        info = await self._state.files.find(session_id, name)
        if info is None:
            return
        if FILES not in connection.features:
            error = "the device takes no files"
            await self._state.files.mark_delivered(session_id, name, info.transfer_id, error)
            return
        start = FileStart(
            filename=info.name,
            size=info.size,
            chunk_size=0,
            total_chunks=info.pieces,
            mime_type=info.mime_type,
            session_id=session_id,
            transfer_id=info.transfer_id,
        )
        async with self._sending.setdefault(connection, asyncio.Lock()):
            connection.send_raw(encode(start))
            try:
                await self._send_pieces(connection, session_id, info)
            except FileMismatch as exc:
                await self._state.files.mark_delivered(session_id, name, info.transfer_id, str(exc))

    async def _send_pieces(self, connection: Connection, session_id: str, info: FileInfo) -> None:
        number = 0
        async for piece in self._state.files.read(session_id, info):
            header = BinaryData(
                size=len(piece),
                chunk_num=number,
                session_id=session_id,
                transfer_id=info.transfer_id,
                timestamp=utc_now(),
            )
            connection.send_raw(encode(header), binary=piece)
            await connection.flushed()
            if connection.closing is not None:
                return
            number += 1
        complete = FileComplete(
            filename=info.name,
            total_chunks=number,
            checksum=info.sha256,
            checksum_algorithm="sha256",
            session_id=session_id,
            transfer_id=info.transfer_id,
        )
        connection.send_raw(encode(complete))

    async def _confirmed(self, connection: Connection, frame: FileComplete) -> None:
        session_id = self._runner.session_for_file(connection, frame.session_id)
        if session_id is None or frame.transfer_id is None:
            raise ProtocolError("no session of this id runs on this device", field="session_id")
        error = None if frame.status == "ok" else (frame.error or "the device did not say why")[:500]
        await self._state.files.mark_delivered(session_id, frame.filename, frame.transfer_id, error)
        event = {"event": "file_delivered", "name": frame.filename, **({"error": error} if error else {})}
        await self._state.sessions.advance(session_id, None, event=event)
