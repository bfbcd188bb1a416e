"""The part of the chart's schema that is the nodes' settings: written from `node/settings.py`, never by hand.

So a misspelt setting, or one of the wrong type, is refused before anything is installed, and a new setting is known to
the chart as soon as `scripts/chart schema` was run; a test says when that was forgotten.
"""

import json
from typing import Any

from devtools.chart.rendering import CHART
from node.settings import Settings

__all__ = ["OWN_VALUES", "SCHEMA", "settings_schema", "with_settings"]

SCHEMA = CHART / "values.schema.json"
# What the chart sets itself, from values of its own or from Secrets.
OWN_VALUES = frozenset(
    {
        *("host", "port", "local", "node_id", "metrics_port"),
        *("redis_url", "redis_password", "redis_sentinel_password"),
        *("api_key", "llm_api_key", "llm_config", "tool_secrets", "devices_config"),
    }
)
_KEPT = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern", "description")


def settings_schema() -> dict[str, Any]:
    """The schema of the value `settings`: every setting that is not the chart's own, and no other."""
    properties = Settings.model_json_schema()["properties"]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _plain(field) for name, field in properties.items() if name not in OWN_VALUES},
    }


def with_settings(text: str) -> str:
    """The chart's schema `text` with the settings as they are now."""
    schema = json.loads(text)
    schema["properties"]["settings"] = settings_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    """What JSON Schema and Helm need of it; a default would be a second truth."""
    # `X | None`: in a chart, None is to leave it out.
    given = next((a for a in field.get("anyOf", []) if a.get("type") != "null"), field)
    return {key: given.get(key, field.get(key)) for key in _KEPT if key in given or key in field}
