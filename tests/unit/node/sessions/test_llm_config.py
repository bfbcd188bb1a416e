"""Which endpoint serves which agent: the settings, and a file like UFO's."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from node.sessions.planners.llm.config import EndpointConfig, LlmConfig
from node.sessions.planners.llm.planner import LlmPlanner
from node.settings import Settings

URL = "http://llm.example/v1"


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "llm.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def config(**settings: Any) -> LlmConfig:
    return LlmConfig(Settings.model_validate(settings))


def of(tmp_path: Path, content: Any, **settings: Any) -> LlmConfig:
    return config(llm_config=written(tmp_path, content), **settings)


def served(config: LlmConfig, agent: str | None) -> tuple[str, str, str, float]:
    endpoint = config.endpoint(agent)
    assert endpoint is not None
    return (endpoint.base_url, endpoint.model, endpoint.api_key, endpoint.temperature)


def test_without_settings_nothing_is_configured() -> None:
    assert not config().configured
    assert not config(llm_base_url=URL).configured
    assert not config(llm_model="m").configured
    assert config(llm_model="m").endpoint("HostAgent") is None


def test_the_settings_alone_serve_every_agent() -> None:
    settings = {"llm_base_url": URL, "llm_model": "m", "llm_api_key": "k", "llm_temperature": 0.2, "llm_timeout_s": 5}
    expected = EndpointConfig(URL, "m", "k", 0.2, 5.0, stream=True)
    for agent in (None, "HostAgent", "LinuxAgent", ""):
        assert config(**settings, llm_stream=True).endpoint(agent) == expected


def test_an_endpoint_without_a_key_gets_one_that_says_nothing() -> None:
    assert served(config(llm_base_url=URL, llm_model="m"), None) == (URL, "m", "none", 0.0)


@pytest.mark.parametrize("suffix", ["", "/", "/chat/completions", "/chat/completions/"])
def test_the_address_of_the_operation_does_as_well_as_that_of_the_api(suffix: str, tmp_path: Path) -> None:
    assert served(config(llm_base_url=URL + suffix, llm_model="m"), None)[0] == URL
    file = {"HOST_AGENT": {"API_BASE": URL + suffix, "API_MODEL": "m"}}
    assert served(of(tmp_path, file), "HostAgent")[0] == URL


UFO_FILE = """
HOST_AGENT:
  VISUAL_MODE: True
  REASONING_MODEL: False
  API_TYPE: "openai"
  API_BASE: "https://host.example/v1/chat/completions"
  API_KEY: "sk-host"
  API_VERSION: "2025-02-01-preview"
  API_MODEL: "big"
  PROMPTS: {A: b}
APP_AGENT:
  API_TYPE: openai
  API_BASE: https://app.example/v1
  API_KEY: sk-app
  API_MODEL: small
  TEMPERATURE: 0.7
LINUX_AGENT:
  API_MODEL: tiny
  API_KEY: ""
  API_BASE:
MAX_STEP: 12
TEMPERATURE: 0.1
TIMEOUT: 7
MAX_RETRY: 20
CONTROL_BACKEND: ["uia"]
"""


def test_a_file_like_ufos_is_read_as_it_is(tmp_path: Path) -> None:
    it = of(tmp_path, UFO_FILE, llm_base_url=URL, llm_model="m", llm_api_key="k", llm_max_steps=30)
    assert served(it, "HostAgent") == ("https://host.example/v1", "big", "sk-host", 0.1)
    assert served(it, "AppAgent") == ("https://app.example/v1", "small", "sk-app", 0.7)
    assert served(it, "LinuxAgent") == (URL, "tiny", "k", 0.1)
    assert served(it, "MobileAgent") == (URL, "m", "k", 0.1)
    assert served(it, None) == (URL, "m", "k", 0.1)
    assert it.max_steps == 12
    assert all(e.timeout_s == 7 for e in (it.endpoint("HostAgent"), it.endpoint(None)) if e is not None)


def test_without_a_model_in_the_settings_the_first_section_serves_the_others(tmp_path: Path) -> None:
    it = of(tmp_path, UFO_FILE)
    assert it.configured
    assert served(it, "MobileAgent") == ("https://host.example/v1", "big", "sk-host", 0.1)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("- a\n- b\n", "must hold sections"),
        ("just text", "must hold sections"),
        ("", "must hold sections"),
        ("a: [", "cannot be read"),
        ({"HOST_AGENT": {"API_TYPE": "aoai"}}, "HOST_AGENT.API_TYPE"),
        ({"HOST_AGENT": {"API_TYPE": 5}}, "HOST_AGENT.API_TYPE"),
        ({"HOST_AGENT": {"API_MODEL": 5}}, "HOST_AGENT.API_MODEL"),
        ({"HOST_AGENT": {"API_KEY": True}}, "HOST_AGENT.API_KEY"),
        ({"HOST_AGENT": {"API_BASE": ["http://a"]}}, "HOST_AGENT.API_BASE"),
        ({"HOST_AGENT": {"API_MODEL": {"a": "b"}}}, "HOST_AGENT.API_MODEL"),
        ({"HOST_AGENT": {"TEMPERATURE": "hot"}}, "HOST_AGENT.TEMPERATURE"),
        ({"APP_AGENT": {"TEMPERATURE": -1}}, "APP_AGENT.TEMPERATURE"),
        ({"MAX_STEP": "many"}, "MAX_STEP"),
        ({"MAX_STEP": True}, "MAX_STEP"),
        ({"MAX_STEP": -1}, "MAX_STEP"),
        ({"MAX_STEP": None}, "MAX_STEP"),
        ({"MAX_STEP": float("nan")}, "MAX_STEP"),
        ({"TIMEOUT": [5]}, "TIMEOUT"),
        ({"TIMEOUT": 0}, "TIMEOUT"),
        ({"TIMEOUT": float("inf")}, "TIMEOUT"),
        ({"TEMPERATURE": float("nan")}, "TEMPERATURE"),
    ],
    ids=str,
)
def test_a_wrong_value_ends_the_start_and_is_named(content: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="llm_config") as caught:
        of(tmp_path, content, llm_base_url=URL, llm_model="m")
    assert named in str(caught.value)


def test_a_key_in_the_file_is_in_no_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="llm_config") as caught:
        of(tmp_path, "HOST_AGENT: {API_KEY: sk-secret\n  API_MODEL: [")
    assert "sk-secret" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"llm_config: .*none\.yaml cannot be read"):
        config(llm_config=tmp_path / "none.yaml")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "llm.yaml"
    path.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ValueError, match=r"llm_config: .*llm\.yaml cannot be read"):
        config(llm_config=path)


def test_a_missing_package_is_named_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none(name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", find_none)
    LlmPlanner(Settings())
    with pytest.raises(ValueError, match=r"aip-cluster-server\[llm\]"):
        LlmPlanner(Settings(llm_base_url=URL, llm_model="m"))


def test_no_key_is_shown_where_the_configuration_is_written() -> None:
    settings = Settings.model_validate({"llm_base_url": URL, "llm_model": "m", "llm_api_key": "sk-secret"})
    assert "sk-secret" not in repr(settings)
    assert "sk-secret" not in repr(LlmConfig(settings).endpoint(None))
