"""Tool parameters that are a matter between operator and device: filled in by the node, seen by nobody else.

UFO's Linux tools want an `api_key`, for one. Such parameters come from `AIP_TOOL_SECRETS`; they are left out of the
schema that a planner sees and of the steps, and their values are struck out of what a device sends back.
"""

from typing import Any

from pydantic import SecretStr

from aip import Command, Result

__all__ = ["ToolSecrets"]

STRUCK_OUT = "[redacted]"
# Shorter values would strike out half of any output.
LEAST_CHARS = 4


class ToolSecrets:
    """The secrets by tool name; a command may name its tool with a namespace."""

    def __init__(self, secrets: dict[str, dict[str, SecretStr]]) -> None:
        self._by_tool = {t: {p: v.get_secret_value() for p, v in given.items()} for t, given in secrets.items()}
        values = {v for given in self._by_tool.values() for v in given.values() if len(v) >= LEAST_CHARS}
        self._values = sorted(values, key=len, reverse=True)

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

    def scrub(self, result: Result) -> Result:
        """A result in which no secret value is left."""
        if not self._values:
            return result
        return result.model_copy(update={"result": self.struck(result.result), "error": self.struck(result.error)})

    def struck(self, value: Any) -> Any:
        """Any JSON value without a secret in it."""
        return self._struck(value) if self._values else value

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
