"""The frames of a file transfer, written and read.

    file_transfer_start      filename, size, chunk_size, total_chunks, mime_type, session_id, transfer_id
    binary_data              chunk_num, chunk_size, size, transfer_id, timestamp; ONE binary frame follows
    file_transfer_complete   filename, total_chunks, checksum, checksum_algorithm, session_id, transfer_id
                             (with `error` and no checksum: the sender gives up; with a `status`: the answer)

Reading raises `FrameError`, whose text may be told to the peer.
"""

import mimetypes
from dataclasses import dataclass
from typing import Any

import orjson

from aip_cluster.protocol import ProtocolError, utc_now
from aip_cluster.protocol.codec import loads

__all__ = [
    "FRAME_TYPES",
    "ChunkHeader",
    "Complete",
    "FrameError",
    "Start",
    "abandoned",
    "answer",
    "chunk_header",
    "complete",
    "file_frame",
    "start",
]

FRAME_TYPES = frozenset({"file_transfer_start", "binary_data", "file_transfer_complete"})
MAX_TEXT_CHARS = 1024


class FrameError(Exception):
    """A frame that does not say what it must."""


@dataclass(frozen=True, slots=True)
class Start:
    """A file is coming."""

    filename: str
    size: int
    total_chunks: int | None
    session_id: str | None
    transfer_id: str | None

    @classmethod
    def read(cls, frame: dict[str, Any]) -> "Start":
        """Raises FrameError, naming the field."""
        size = _number(frame, "size")
        filename = _text(frame, "filename")
        if size is None or filename is None:
            raise FrameError(f"{'size' if size is None else 'filename'} is missing")
        return cls(
            filename, size, _number(frame, "total_chunks"), _text(frame, "session_id"), _text(frame, "transfer_id")
        )


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """The next binary frame is this chunk."""

    number: int | None
    size: int | None
    transfer_id: str | None

    @classmethod
    def read(cls, frame: dict[str, Any]) -> "ChunkHeader":
        """Raises FrameError, naming the field."""
        return cls(_number(frame, "chunk_num"), _number(frame, "size"), _text(frame, "transfer_id"))


@dataclass(frozen=True, slots=True)
class Complete:
    """All chunks were sent, or (`error`) no more will come."""

    total_chunks: int | None
    checksum: str | None
    algorithm: str | None
    transfer_id: str | None
    error: str | None

    @classmethod
    def read(cls, frame: dict[str, Any]) -> "Complete":
        """Raises FrameError, naming the field."""
        error = _text(frame, "error")
        if _text(frame, "status") == "error" and error is None:
            error = "the sender gave up"
        checksum, algorithm = _text(frame, "checksum"), _text(frame, "checksum_algorithm")
        return cls(
            _number(frame, "total_chunks"),
            checksum.lower() if checksum else None,
            algorithm.lower() if algorithm else None,
            _text(frame, "transfer_id"),
            error,
        )


def file_frame(raw: str | bytes) -> dict[str, Any] | None:
    """The frame, if it is a text frame of a file transfer."""
    # Most frames are not: the look at the text saves reading them twice.
    if isinstance(raw, bytes) or not any(kind in raw for kind in FRAME_TYPES):
        return None
    try:
        frame = loads(raw)
    except ProtocolError:
        return None
    return frame if isinstance(frame, dict) and frame.get("type") in FRAME_TYPES else None


def start(filename: str, size: int, chunk_size: int, session_id: str, transfer_id: str) -> bytes:
    """The first frame of a transfer."""
    return orjson.dumps(
        {
            "type": "file_transfer_start",
            "filename": filename,
            "size": size,
            "chunk_size": chunk_size,
            "total_chunks": -(-size // chunk_size),
            "mime_type": mimetypes.guess_type(filename)[0] or "application/octet-stream",
            "session_id": session_id,
            "transfer_id": transfer_id,
        }
    )


def chunk_header(number: int, size: int, transfer_id: str) -> bytes:
    """The frame before a chunk. Chunks are numbered from 0."""
    return orjson.dumps(
        {
            "type": "binary_data",
            "chunk_num": number,
            "chunk_size": size,
            "size": size,
            "transfer_id": transfer_id,
            "timestamp": utc_now(),
        }
    )


def complete(filename: str, total_chunks: int, sha256: str, session_id: str, transfer_id: str) -> bytes:
    """The last frame of a transfer."""
    return orjson.dumps(
        {
            "type": "file_transfer_complete",
            "filename": filename,
            "total_chunks": total_chunks,
            "checksum": sha256,
            "checksum_algorithm": "sha256",
            "session_id": session_id,
            "transfer_id": transfer_id,
        }
    )


def abandoned(filename: str, error: str, session_id: str, transfer_id: str) -> bytes:
    """The last frame of a transfer that its sender gives up. Without a `status`, which would make it an answer: to a
    receiver that does not know of this, it is the end of a file of which too little came."""
    return orjson.dumps(
        {
            "type": "file_transfer_complete",
            "error": error,
            "filename": filename,
            "session_id": session_id,
            "transfer_id": transfer_id,
        }
    )


def answer(start: Start, error: str | None, *, stored_as: str | None = None, checksum: str | None = None) -> bytes:
    """What the receiver says: stored (under which name, if not its own), or why not."""
    frame = {
        "type": "file_transfer_complete",
        "status": "ok" if error is None else "error",
        "error": error,
        "filename": start.filename,
        "stored_as": stored_as if stored_as != start.filename else None,
        "session_id": start.session_id,
        "transfer_id": start.transfer_id,
        "checksum": checksum,
    }
    return orjson.dumps({key: value for key, value in frame.items() if value is not None})


def _number(frame: dict[str, Any], field: str) -> int | None:
    value = frame.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FrameError(f"{field} must be a whole number, 0 or more")
    return value


def _text(frame: dict[str, Any], field: str) -> str | None:
    value = frame.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
        raise FrameError(f"{field} must be a string of at most {MAX_TEXT_CHARS} characters")
    return value
