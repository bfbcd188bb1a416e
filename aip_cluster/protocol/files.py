"""Files on the wire (AIP.md section 6; UFO's `aip/protocol/base.py`): headers as text, data as binary frames.

Large: `file_transfer_start`, then for each chunk `binary_data` and ONE binary frame, then `file_transfer_complete` with
the checksum of all. Small: `binary_data` with a `filename`, and one binary frame. `session_id` and `transfer_id` are
this project's additions: UFO's frames go without, and then the device's only session is meant.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from aip_cluster.protocol.errors import ProtocolError

__all__ = ["FILE_FRAMES", "BinaryData", "FileComplete", "FileFrame", "FileStart", "check_file_name"]

FILE_NAME_CHARS = 200


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class _FileFrame(BaseModel):
    model_config = ConfigDict(extra="ignore")

    session_id: str | None = None
    transfer_id: str | None = None
    timestamp: str | None = None


class FileStart(_FileFrame):
    """A file of `size` bytes follows in `total_chunks` chunks."""

    type: Literal["file_transfer_start"] = "file_transfer_start"
    filename: str
    size: int = Field(ge=0)
    chunk_size: int = Field(default=0, ge=0)
    total_chunks: int = Field(ge=0)
    mime_type: str | None = None


class BinaryData(_FileFrame):
    """The next binary frame is a chunk, or, with a `filename` and no transfer under way, a whole file."""

    type: Literal["binary_data"] = "binary_data"
    size: int = Field(ge=0)
    chunk_num: int | None = Field(default=None, ge=0)
    chunk_size: int | None = None
    filename: str | None = None
    mime_type: str | None = None
    checksum: str | None = None


class FileComplete(_FileFrame):
    """All chunks were sent; as an answer (`status`), all of them arrived, or why not."""

    type: Literal["file_transfer_complete"] = "file_transfer_complete"
    filename: str
    total_chunks: int | None = Field(default=None, ge=0)
    checksum: str | None = None
    checksum_algorithm: Annotated[Literal["md5", "sha256"] | None, BeforeValidator(_lower)] = None
    status: Annotated[Literal["ok", "error"] | None, BeforeValidator(_lower)] = None
    error: str | None = None


FileFrame = FileStart | BinaryData | FileComplete
FILE_FRAMES: dict[str, type[FileStart] | type[BinaryData] | type[FileComplete]] = {
    "file_transfer_start": FileStart,
    "binary_data": BinaryData,
    "file_transfer_complete": FileComplete,
}


def check_file_name(value: str, field: str = "filename") -> str:
    """Return `value` if it may name a file: no path, no leading dot, nothing that a shell or a header trips over.

    Raises ProtocolError, naming `field`, otherwise.
    """
    if not 0 < len(value) <= FILE_NAME_CHARS:
        raise ProtocolError(f"must be 1 to {FILE_NAME_CHARS} characters", field=field)
    if value.startswith(".") or any(c in '/\\:*?"<>|{}%' or not c.isprintable() for c in value):
        raise ProtocolError('must be a plain name: no leading dot, none of / \\ : * ? " < > | { } %', field=field)
    return value
