"""Settings: from flags, then variables, then defaults; whatever is wrong is named."""

import pytest

from node.__main__ import main
from node.settings import Settings, unknown_variables


def _from_flags(*flags: str) -> Settings:
    return Settings(_cli_parse_args=list(flags))


def test_without_anything_set_a_node_runs_alone() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.bind_host) == ("0.0.0.0", 5000, "0.0.0.0")
    assert settings.redis_url == "embedded://"
    assert settings.api_key is None
    assert settings.log_level == "INFO"


def test_a_dead_nodes_registrations_are_gone_within_six_seconds() -> None:
    """The lease, and the longest time until another node looks."""
    settings = Settings()
    assert settings.lease_ttl_s + settings.lease_renew_s < 6


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_PORT", "6001")
    monkeypatch.setenv("AIP_REDIS_URL", "redis://r:6379")
    monkeypatch.setenv("aip_local", "true")
    monkeypatch.setenv("AIP_LOG_LEVEL", "debug")
    settings = Settings()
    assert (settings.port, settings.redis_url) == (6001, "redis://r:6379")
    assert (settings.local, settings.bind_host) == (True, "127.0.0.1")
    assert settings.log_level == "DEBUG"


def test_flags_are_read() -> None:
    settings = _from_flags("--port", "6002", "--node-id", "n.1", "--platform", "linux", "--local", "--log-level", "off")
    assert (settings.port, settings.node_id, settings.platform) == (6002, "n.1", "linux")
    assert (settings.local, settings.log_level) == (True, "OFF")


def test_a_flag_wins_over_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_PORT", "6001")
    monkeypatch.setenv("AIP_KEY_PREFIX", "other")
    settings = _from_flags("--port", "6002")
    assert (settings.port, settings.key_prefix) == (6002, "other")


BAD = [
    ("port", "x"),
    ("port", "-1"),
    ("port", "65536"),
    ("port", ""),
    ("platform", "beos"),
    ("log_level", "loud"),
    ("log_format", "xml"),
    ("local", "perhaps"),
    ("node_id", "a b"),
    ("node_id", ""),
    ("node_id", "x" * 65),
    ("node_id", "a\nb"),
    ("node_id", "a{b}"),
    ("redis_timeout_s", "0"),
    ("redis_timeout_s", "-1"),
    ("redis_timeout_s", "nan"),
    ("lease_ttl_s", "0"),
    ("lease_ttl_s", "inf"),
    ("session_timeout_s", "soon"),
    ("result_ttl_s", "1.5"),
    ("result_ttl_s", "0"),
    ("echo_wait_s", "-0.1"),
    ("max_body_bytes", "0"),
    ("max_frame_bytes", "1MB"),
    ("send_queue_bytes", "-1"),
    ("api_key", ""),
    ("api_key", "  "),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_variable_is_named_and_ends_the_start(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"AIP_{name.upper()}", value)
    with pytest.raises(SystemExit) as ended:
        main(["--redis-url", "nothing://"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"aip-node: {name}: " in told
    assert "Traceback" not in told


def test_every_bad_setting_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIP_PORT", "x")
    monkeypatch.setenv("AIP_LOG_FORMAT", "xml")
    with pytest.raises(SystemExit):
        main([])
    told = capsys.readouterr().err
    assert "aip-node: port: " in told
    assert "aip-node: log_format: " in told


def test_a_bad_key_is_not_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AIP_API_KEY", "hunter2")
    monkeypatch.setenv("AIP_PORT", "x")
    with pytest.raises(SystemExit):
        main([])
    assert "hunter2" not in capsys.readouterr().err
    assert "hunter2" not in repr(Settings(port=1))


@pytest.mark.parametrize("flags", [["--prot", "1"], ["--port"], ["stray"], ["--port", "x"]])
def test_a_bad_flag_ends_the_start(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*flags, "--redis-url", "nothing://"])
    assert ended.value.code == 2
    assert "aip-node" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--lease-renew-s", "3", "--lease-ttl-s", "4"], "lease_renew_s"),
        (["--session-timeout-s", "10", "--max-session-timeout-s", "5"], "session_timeout_s"),
        (["--redis-url", "http://x"], "redis_url"),
        (["--key-prefix", "a{b"], "key prefix"),
        (["--key-prefix", ""], "key prefix"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    flags: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*flags, "--log-level", "OFF"])
    assert ended.value.code == 2
    assert names in capsys.readouterr().err


def test_unknown_variables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_PROT", "1")
    monkeypatch.setenv("aip_redis_urls", "x")
    monkeypatch.setenv("AIP_PORT", "1")
    monkeypatch.setenv("AIP_DEVICE_NAME", "of another program")
    assert unknown_variables() == ["AIP_PROT", "aip_redis_urls"]
    assert Settings().port == 1, "and they stop nobody"


def test_the_name_of_the_machine_becomes_a_plain_node_id(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, node_id in (("box", "box"), ("my box_1.local", "my-box_1.local"), ("", "node")):
        monkeypatch.setattr("socket.gethostname", lambda name=name: name)
        assert Settings().node_id == node_id


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in told
