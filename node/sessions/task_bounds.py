"""How large the parts of a task may be, however it comes: over REST, in a batch, or over a socket.

All of them are stored with the session until its result has expired, and those of a device that never comes wait.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from aip_cluster.protocol import Command
from node.settings import Settings

__all__ = ["TaskBounds", "TaskTooLarge"]


class TaskTooLarge(ValueError):
    """A part of a task, named by `field`, is above its bound; the text says which one, and what to do."""

    def __init__(self, field: str, size: int, bound: int, setting: str) -> None:
        super().__init__(
            f"has {size} bytes, at most {bound} are allowed ({setting}); send what is large as a file of the session"
        )
        self.field = field


class TaskBounds:
    """The bounds of a node's settings."""

    def __init__(self, settings: Settings) -> None:
        self._request_bytes = settings.max_request_bytes
        self._metadata_bytes = settings.max_metadata_bytes
        self._commands_bytes = settings.max_commands_bytes

    def check(self, request: str, metadata: Mapping[str, Any] | None, commands: Sequence[Command] | None) -> None:
        """Raises TaskTooLarge."""
        # No character takes more than four bytes: most texts need not be encoded to be found small.
        if len(request) * 4 > self._request_bytes:
            _check("request", len(request.encode("utf-8", "surrogatepass")), self._request_bytes)
        if metadata:
            _check("metadata", len(orjson.dumps(metadata)), self._metadata_bytes)
        if commands:
            size = sum(len(orjson.dumps(c.parameters)) + len(c.tool_name) for c in commands)
            _check("commands", size, self._commands_bytes)


def _check(field: str, size: int, bound: int) -> None:
    if size > bound:
        raise TaskTooLarge(field, size, bound, f"max_{field}_bytes")
