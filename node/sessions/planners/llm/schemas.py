"""The schema of a tool as a model is given it: what a call needs, and no sentence of the device outside the marks.

Keywords that only explain (titles, examples, comments, those that are unknown) are left out, descriptions stand between
marks, and parameters must have plain names. All tools of a question share one budget: a tool that is beyond it is
offered without its schema.
"""

import re
from typing import Any

from node.sessions.planners.llm.marks import marked

__all__ = ["BARE", "Schemas"]

VALUES_BUDGET = 20_000
DEPTH = 32
TEXT_CHARS = 1024
VALUE_CHARS = 64
BARE: dict[str, Any] = {"type": "object", "properties": {}}

_NAME = re.compile(r"[\w.$@:/-]{1,64}")
# Keywords by what they hold.
_SCHEMA = frozenset({"items", "additionalProperties", "not", "contains"})
_SCHEMAS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_BY_NAME = frozenset({"properties", "$defs", "definitions"})
_WORDS = frozenset({"type", "format", "$ref"})
_VALUES = frozenset({"enum", "const", "default"})
_NUMBERS = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"}
    | {"minItems", "maxItems", "uniqueItems"}
)


class _TooMuch(Exception):
    """The budget is spent."""


class Schemas:
    """Makes the schemas of one question."""

    def __init__(self) -> None:
        self._left = VALUES_BUDGET

    def offered(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema for a model."""
        try:
            return self._schema(schema, DEPTH) if schema else BARE
        except _TooMuch:
            return BARE

    def _spend(self, values: int, depth: int) -> None:
        self._left -= values
        if self._left < 0 or depth < 0:
            raise _TooMuch

    def _schema(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict):
            return schema if isinstance(schema, bool) else {}
        self._spend(1 + len(schema), depth)
        kept: dict[str, Any] = {}
        for word, value in schema.items():
            if word == "description" and isinstance(value, str):
                kept[word] = marked(value[:TEXT_CHARS])
            elif word in _SCHEMA:
                kept[word] = self._schema(value, depth - 1)
            elif word in _SCHEMAS and isinstance(value, list):
                kept[word] = [self._schema(one, depth - 1) for one in value]
            elif word in _BY_NAME and isinstance(value, dict):
                kept[word] = {
                    name: self._schema(one, depth - 1) for name, one in value.items() if _NAME.fullmatch(name)
                }
            elif self._is_kept(word, value, depth - 1):
                kept[word] = value
        wanted = schema.get("required")
        if isinstance(wanted, list):
            named = kept.get("properties", {})
            kept["required"] = [name for name in wanted if isinstance(name, str) and name in named]
        return kept

    def _is_kept(self, word: str, value: Any, depth: int) -> bool:
        if word in _WORDS:
            return self._is_word(value)
        if word in _VALUES:
            return self._is_value(value, depth)
        return word in _NUMBERS and isinstance(value, int | float)

    def _is_word(self, value: Any) -> bool:
        words = value if isinstance(value, list) else [value]
        self._spend(len(words), 0)
        return all(isinstance(word, str) and _NAME.fullmatch(word.replace("#", "$")) for word in words)

    def _is_value(self, value: Any, depth: int) -> bool:
        """Whether it is a value that a call may have, and not a text."""
        self._spend(1, depth)
        if isinstance(value, dict):
            return all(
                self._is_value(name, depth - 1) and self._is_value(one, depth - 1) for name, one in value.items()
            )
        if isinstance(value, list):
            return all(self._is_value(one, depth - 1) for one in value)
        return not isinstance(value, str) or len(value) <= VALUE_CHARS
