"""The device's files, as far as a tool may reach them.

Confined (the default), every path ends inside the working folder once its symbolic links are followed, or the call
is refused. Only regular files are opened, so that a pipe or a device node cannot hold a call forever. This guards
the file tools; a shell command is bound by nothing but the rights of the agent's user.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Workspace", "WorkspaceError"]

MAX_LISTED = 1000


class WorkspaceError(Exception):
    """A path that may not or cannot be used; `str(error)` is a sentence for whoever asked."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder and whether one may leave it. All methods block on the disk."""

    root: Path
    confined: bool = True

    def resolve(self, path: str) -> Path:
        """The file that `path` means, relative to the working folder. Raises WorkspaceError if it lies outside."""
        root = self.root.resolve()
        if "\0" in path:
            raise WorkspaceError("the path holds a null character")
        try:
            resolved = (root / path).resolve()
        except (OSError, RuntimeError) as exc:
            raise WorkspaceError(f"{path!r}: {_reason(exc)}") from None
        if self.confined and not resolved.is_relative_to(root):
            raise WorkspaceError(f"{path!r} is outside the working folder, and this device is confined to it")
        return resolved

    def folder(self, path: str) -> Path:
        """As `resolve`, for a path that must be a folder."""
        resolved = self.resolve(path)
        if not resolved.is_dir():
            raise WorkspaceError(f"{path!r} is not a folder")
        return resolved

    def read(self, path: str, *, offset: int, max_bytes: int) -> dict[str, Any]:
        """Up to `max_bytes` of a file from `offset`, as text. Raises WorkspaceError."""
        fd = self._open(path, os.O_RDONLY)
        try:
            with os.fdopen(fd, "rb") as file:
                file.seek(offset)
                data = file.read(max_bytes)
                more = bool(file.read(1))
                size = os.fstat(fd).st_size
        except OSError as exc:
            raise WorkspaceError(f"{path!r}: {_reason(exc)}") from None
        return {
            "path": path,
            "content": data.decode("utf-8", errors="replace"),
            "offset": offset,
            "bytes_read": len(data),
            "size_bytes": size,
            "truncated": more,
        }

    def open(self, path: str) -> int:
        """A descriptor of a regular file, to read from; the caller closes it. Raises WorkspaceError."""
        return self._open(path, os.O_RDONLY)

    def write(self, path: str, content: str, *, append: bool) -> dict[str, Any]:
        """Write a file, making the folders above it. Raises WorkspaceError."""
        try:
            self.resolve(path).parent.mkdir(parents=True, exist_ok=True)
            data = content.encode("utf-8")
        except OSError as exc:
            raise WorkspaceError(f"{path!r}: {_reason(exc)}") from None
        except UnicodeEncodeError:
            raise WorkspaceError("the content holds characters that UTF-8 cannot carry") from None
        fd = self._open(path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC))
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
        except OSError as exc:
            raise WorkspaceError(f"{path!r}: {_reason(exc)}") from None
        return {"path": path, "bytes_written": len(data)}

    def listing(self, path: str, *, recursive: bool) -> dict[str, Any]:
        """The entries of a folder, at most 1,000. Symbolic links are named, not followed. Raises WorkspaceError."""
        folder = self.folder(path)
        root = self.root.resolve()
        entries: list[dict[str, Any]] = []
        truncated = False
        try:
            for entry in _walk(folder, recursive=recursive):
                if len(entries) == MAX_LISTED:
                    truncated = True
                    break
                entries.append(_describe(entry, root))
        except OSError as exc:
            raise WorkspaceError(f"{path!r}: {_reason(exc)}") from None
        return {"entries": sorted(entries, key=lambda entry: str(entry["path"])), "truncated": truncated}

    def _open(self, path: str, flags: int) -> int:
        """Open what `path` resolves to, if it is a regular file. Raises WorkspaceError."""
        # The resolved path has no link left at its end: one that appears there now was put there to lead us out.
        resolved = self.resolve(path)
        try:
            fd = os.open(resolved, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as exc:
            raise WorkspaceError(f"{path!r}: {_reason(exc)}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise WorkspaceError(f"{path!r} is not a regular file")
        return fd


def _walk(folder: Path, *, recursive: bool) -> Iterator[os.DirEntry[str]]:
    pending = [folder]
    first = True
    while pending:
        current = pending.pop()
        try:
            scan = os.scandir(current)
        except OSError:
            # The folder that was asked for is the caller's business; one below it that went away is not.
            if first:
                raise
            continue
        first = False
        with scan:
            for entry in scan:
                yield entry
                if recursive and entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))


def _describe(entry: os.DirEntry[str], root: Path) -> dict[str, Any]:
    path = Path(entry.path)
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    # Names are bytes on this system; those that are not UTF-8 come as surrogates, which JSON cannot carry.
    described: dict[str, Any] = {"path": os.fsencode(shown).decode("utf-8", errors="replace"), "type": "other"}
    if entry.is_symlink():
        described["type"] = "symlink"
    elif entry.is_dir(follow_symlinks=False):
        described["type"] = "directory"
    elif entry.is_file(follow_symlinks=False):
        described["type"] = "file"
        try:
            described["size_bytes"] = entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            described["size_bytes"] = None
    return described


def _reason(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
