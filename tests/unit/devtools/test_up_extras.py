"""`scripts/up` installs what the nodes need for the settings in its environment."""

import pytest

from devtools.up import needed_extras

ALWAYS = {"device", "embedded"}


@pytest.mark.parametrize(
    ("variables", "extras"),
    [
        ({}, ALWAYS),
        ({"AIP_LLM_BASE_URL": "http://127.0.0.1:1/v1"}, ALWAYS | {"llm"}),
        ({"AIP_LLM_CONFIG": "models.yaml"}, ALWAYS | {"llm"}),
        ({"AIP_TRACE_ENDPOINT": "http://127.0.0.1:4318"}, ALWAYS | {"otel"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "AIP_LLM_BASE_URL": ""}, ALWAYS | {"otel"}),
    ],
)
def test_settings_bring_their_extras(variables: dict[str, str], extras: set[str]) -> None:
    assert needed_extras(variables) == extras
