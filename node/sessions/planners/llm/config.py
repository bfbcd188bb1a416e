"""Which endpoint and model serve which agent: from `AIP_LLM_*`, and from a file like UFO's `config_dev.yaml`.

    HOST_AGENT: {API_TYPE: openai, API_BASE: https://…/v1, API_KEY: …, API_MODEL: …}
    LINUX_AGENT: {API_MODEL: a-smaller-one}
    MAX_STEP: 30
    TEMPERATURE: 0.0
    TIMEOUT: 60

A section may leave fields out: they come from `AIP_LLM_*`. Agents without a section use `AIP_LLM_*` alone, or, if
those name no model, the first section.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from node.settings import Settings

__all__ = ["EndpointConfig", "LlmConfig"]

_SECTION_FIELDS = {"API_TYPE", "API_BASE", "API_KEY", "API_MODEL", "TEMPERATURE"}
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """One endpoint. Equal ones share a connection pool."""

    base_url: str
    model: str
    api_key: str = field(repr=False)
    temperature: float
    timeout_s: float
    stream: bool


class LlmConfig:
    """The endpoints by agent. Raises ValueError, naming the file and the field."""

    def __init__(self, settings: Settings) -> None:
        key = settings.llm_api_key
        self.max_steps = settings.llm_max_steps
        self.max_tokens = settings.llm_max_tokens
        self._base = {
            "API_BASE": settings.llm_base_url,
            "API_KEY": key.get_secret_value() if key is not None else None,
            "API_MODEL": settings.llm_model,
            "TEMPERATURE": settings.llm_temperature,
        }
        self._timeout_s = settings.llm_timeout_s
        self._stream = settings.llm_stream
        self._sections: dict[str, dict[str, Any]] = {}
        if settings.llm_config is not None:
            self._read(settings.llm_config)

    def _read(self, path: Path) -> None:
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise ValueError(f"llm_config: {path} cannot be read: {type(exc).__name__}") from None
        if not isinstance(data, dict):
            raise ValueError(f"llm_config: {path} must hold sections by agent")
        for name, value in data.items():
            if isinstance(value, dict):
                self._sections[str(name)] = self._section(str(name), value)
        self.max_steps = _number(data, "MAX_STEP", self.max_steps, int)
        self._timeout_s = _number(data, "TIMEOUT", self._timeout_s, float)
        self._base["TEMPERATURE"] = _number(data, "TEMPERATURE", self._base["TEMPERATURE"], float)

    @staticmethod
    def _section(name: str, value: dict[Any, Any]) -> dict[str, Any]:
        # UFO's sections hold more than an endpoint; what is not about one is UFO's business.
        section = {k: v for k, v in value.items() if k in _SECTION_FIELDS and v is not None and v != ""}
        if section.pop("API_TYPE", "openai") != "openai":
            raise ValueError(f"llm_config: {name}.API_TYPE must be openai: any compatible endpoint is reached with it")
        for name_of_field in ("API_BASE", "API_KEY", "API_MODEL"):
            if not isinstance(section.get(name_of_field, ""), str):
                raise ValueError(f"llm_config: {name}.{name_of_field} must be a string")
        _number(section, "TEMPERATURE", 0.0, float, within=f"{name}.")
        return section

    @property
    def configured(self) -> bool:
        """Whether any agent has an endpoint."""
        return self.endpoint(None) is not None

    def endpoint(self, agent_name: str | None) -> EndpointConfig | None:
        """The endpoint for an agent (`HostAgent` reads the section `HOST_AGENT`)."""
        section = self._sections.get(_CAMEL.sub("_", agent_name or "").upper())
        if section is None and not self._base["API_MODEL"]:
            section = next(iter(self._sections.values()), None)
        merged = {**self._base, **(section or {})}
        if not merged["API_BASE"] or not merged["API_MODEL"]:
            return None
        return EndpointConfig(
            # UFO's files give the address of the operation; the client wants that of the API.
            base_url=str(merged["API_BASE"]).rstrip("/").removesuffix("/chat/completions"),
            model=str(merged["API_MODEL"]),
            api_key=str(merged["API_KEY"] or "none"),
            temperature=float(merged["TEMPERATURE"]),
            timeout_s=self._timeout_s,
            stream=self._stream,
        )


def _number(data: dict[Any, Any], name: str, default: Any, kind: type, *, within: str = "") -> Any:
    value = data.get(name, default)
    sound = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    # No time and no steps are no configuration; a temperature of 0 is one.
    if not sound or (value == 0 and name != "TEMPERATURE"):
        raise ValueError(f"llm_config: {within}{name} must be a number above 0 (TEMPERATURE: 0 or more)")
    return kind(value)
