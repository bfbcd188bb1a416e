"""Tool parameters that are a matter between operator and device: filled in by the node, seen by nobody else.

UFO's Linux tools want an `api_key`, for one. Such parameters come from `AIP_TOOL_SECRETS`; they are left out of the
schema that a planner sees and of the steps. Their values are taken out of everything that a device says, in one place:
where its frame is decoded, before anything reads it (`scrub`). They are found as they are, as JSON and as a URL write
them. What a device encodes otherwise, and the content of files that it uploads, is not looked at.
"""

from typing import Any
from urllib.parse import quote

import orjson
from pydantic import SecretStr

from aip_cluster.protocol import Command
from aip_cluster.protocol.codec import Scrub

__all__ = ["ToolSecrets"]

STRUCK_OUT = "[redacted]"
# Shorter values would strike out half of any output.
LEAST_CHARS = 4
ROUTING = frozenset({"type", "message_type", "status", "client_id", "client_type", "session_id", "prev_response_id"})


class ToolSecrets:
    """The secrets by tool name; a command may name its tool with a namespace."""

    def __init__(self, secrets: dict[str, dict[str, SecretStr]]) -> None:
        self._by_tool = {t: {p: v.get_secret_value() for p, v in given.items()} for t, given in secrets.items()}
        values = {v for given in self._by_tool.values() for v in given.values() if len(v) >= LEAST_CHARS}
        written = {form for v in values for form in (v, orjson.dumps(v).decode()[1:-1], quote(v, safe=""))}
        self._values = sorted(written, key=len, reverse=True)

    @property
    def scrub(self) -> Scrub | None:
        """Takes the secrets out of the fields of a device's frame; None where there are none."""
        return self._scrub_frame if self._values else None

    def _of(self, tool_name: str) -> dict[str, str]:
        return self._by_tool.get(tool_name) or self._by_tool.get(tool_name.rpartition(".")[2]) or {}

    def fill(self, command: Command, *, given_wins: bool) -> Command:
        """The command as it is sent. What a dispatch gave stays; what a model made up does not."""
        secrets = self._of(command.tool_name)
        if not secrets:
            return command
        given = command.parameters or {}
        return command.model_copy(update={"parameters": {**secrets, **given} if given_wins else {**given, **secrets}})

    def strip(self, command: Command) -> Command:
        """The command as it is stored: without the secret parameters, whoever gave them."""
        secrets = self._of(command.tool_name)
        if not secrets:
            return command
        kept = {k: v for k, v in (command.parameters or {}).items() if k not in secrets}
        return command.model_copy(update={"parameters": kept})

    def hide(self, tool_name: str, schema: dict[str, Any]) -> dict[str, Any]:
        """A tool's schema without its secret parameters."""
        secrets = self._of(tool_name)
        if not secrets:
            return schema
        hidden = dict(schema)
        properties, required = schema.get("properties"), schema.get("required")
        # A schema is whatever a device sent: what is none tells a planner nothing.
        hidden["properties"] = (
            {k: v for k, v in properties.items() if k not in secrets} if isinstance(properties, dict) else {}
        )
        hidden["required"] = [k for k in required if k not in secrets] if isinstance(required, list) else []
        return hidden

    def _scrub_frame(self, fields: dict[str, Any]) -> dict[str, Any]:
        # By these the frame finds its way; none of them is kept.
        return {k: v if k in ROUTING else self._struck(v) for k, v in fields.items()}

    def _struck(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._struck(k): self._struck(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._struck(v) for v in value]
        if isinstance(value, str):
            for secret in self._values:
                value = value.replace(secret, STRUCK_OUT)
            return value
        if isinstance(value, int | float) and any(secret in str(value) for secret in self._values):
            return STRUCK_OUT
        return value
