"""Parameters to arguments, and MCP results to values.

Parameters are checked against the tool's schema before the call, so that a mistake is answered with the field at
fault and the tool never runs. The schema is a stranger's: one that cannot be used fails its own tool only.
"""

from collections.abc import Mapping
from typing import Any

import mcp_types
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import validator_for
from referencing import Registry

from aip_cluster.device.errors import InvalidParameters, ToolFailed

__all__ = ["Arguments", "text_of", "value_of"]

# UFO's servers hand this to every tool; it is a secret between them and tools that ask for it.
IGNORED_PARAMETER = "api_key"

# What a tool may call its own deadline, and how many seconds one of its units is.
_TIMEOUTS = {"timeout": 1.0, "timeout_s": 1.0, "timeout_seconds": 1.0, "timeout_ms": 0.001}


class Arguments:
    """One tool's input schema, as a check."""

    def __init__(self, tool: mcp_types.Tool, namespace: str) -> None:
        self._name = tool.name
        self._namespace = namespace
        schema = tool.input_schema
        self._properties: dict[str, Any] = schema.get("properties") or {}
        # The registry is empty: a reference to another document must not make us fetch it.
        self._validator = validator_for(schema)(schema, registry=Registry())

    def check(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments to call with. Raises InvalidParameters, naming the field; ToolFailed for a useless schema."""
        arguments = dict(parameters)
        if IGNORED_PARAMETER not in self._properties:
            arguments.pop(IGNORED_PARAMETER, None)
        try:
            self._drop_nulls(arguments)
            error = best_match(self._validator.iter_errors(arguments))
        except Exception as exc:
            # A reference to nowhere, an unknown type, a pattern that is none: jsonschema has an error for each.
            text = f"{self._name}: the tool's input schema cannot be used ({type(exc).__name__})"
            raise ToolFailed(text, namespace=self._namespace) from exc
        if error is not None:
            raise InvalidParameters(f"{self._name}: {self._explain(error, arguments)}", namespace=self._namespace)
        return arguments

    def timeout_s(self, arguments: Mapping[str, Any]) -> float | None:
        """The deadline that the tool itself keeps, given or by default, if its schema has one."""
        for name, unit_s in _TIMEOUTS.items():
            schema = self._properties.get(name)
            if schema is None:
                continue
            value = arguments.get(name, schema.get("default") if isinstance(schema, dict) else None)
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
                return value * unit_s
        return None

    def _drop_nulls(self, arguments: dict[str, Any]) -> None:
        """Absent and null are the same to AIP, not to JSON Schema."""
        for name, schema in self._properties.items():
            given_null = name in arguments and arguments[name] is None
            if given_null and not self._validator.evolve(schema=schema).is_valid(None):
                del arguments[name]

    def _explain(self, error: ValidationError, arguments: Mapping[str, Any]) -> str:
        where = ".".join(str(part) for part in error.absolute_path)
        if error.validator == "required":
            missing = [name for name in error.validator_value if name not in error.instance]
            return f"parameter {'.'.join(filter(None, [where, missing[0]]))!r} is missing"
        if error.validator == "additionalProperties" and not where:
            unknown = [name for name in arguments if name not in self._properties]
            known = ", ".join(self._properties) or "none"
            return f"parameter {unknown[0][:100]!r} is not known; there are: {known}"
        return f"parameter {where!r}: {error.message[:300]}"


def value_of(tool: mcp_types.Tool, result: mcp_types.CallToolResult) -> Any:
    """The structured content, out of the `{"result": …}` that MCP puts around what is not an object; else the text."""
    content = result.structured_content
    if content is None:
        return text_of(result)
    wrapped = set((tool.output_schema or {}).get("properties", {})) == {"result"}
    if wrapped and isinstance(content, dict) and set(content) == {"result"}:
        return content["result"]
    return content


def text_of(result: mcp_types.CallToolResult) -> Any:
    """The content as text, or as MCP's blocks where some of it is none."""
    blocks = result.content
    if all(isinstance(block, mcp_types.TextContent) for block in blocks):
        return "\n".join(block.text for block in blocks if isinstance(block, mcp_types.TextContent))
    return [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in blocks]
