"""Where settings come from, and what is said about those that cannot be used."""

from pathlib import Path
from typing import Any

import pytest

from clients.device.config import ConfigError, Settings, load, system_platform
from clients.sockets import http_base, websocket_url

GIVEN = {"server": "ws://h:1", "device_id": "lab-1"}


def with_file(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    file = tmp_path / "client_config.yaml"
    file.write_text(text)
    return load({"config": str(file), **flags}, environ or {})


def test_flags_win_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    text = "server: {host: file, port: 1}\ndevice: {name: file, platform: darwin, heartbeat_s: 5}\nlog_level: debug\n"
    environ = {"AIP_DEVICE_ID": "env", "AIP_DEVICE_PLATFORM": "windows", "AIP_DEVICE_HEARTBEAT_S": "7"}
    settings = with_file(tmp_path, text, environ, device_id="flag")
    assert settings.server == "ws://file:1/ws"
    assert settings.device_id == "flag"
    assert settings.platform == "windows"
    assert settings.heartbeat_s == 7
    assert settings.log_level == "DEBUG"


def test_the_defaults_are_those_of_this_machine() -> None:
    settings = load(GIVEN, {})
    assert settings.platform == system_platform()
    assert settings.workdir == Path.home() / ".aip-device" / "lab-1"
    assert settings.token is None
    assert settings.unconfined is False


def test_a_device_name_cannot_lead_the_working_folder_elsewhere() -> None:
    settings = load({**GIVEN, "device_id": "../../etc/x"}, {})
    assert settings.workdir == Path.home() / ".aip-device" / "_.._etc_x"


def test_the_key_comes_from_a_flag_or_from_either_variable_and_is_not_shown() -> None:
    both = {"AIP_DEVICE_TOKEN": "k3y-env", "AIP_API_KEY": "k3y-any"}
    for flags, environ, expected in (
        ({"token": "k3y-flag"}, both, "k3y-flag"),
        ({}, both, "k3y-env"),
        ({}, {"AIP_API_KEY": "k3y-any"}, "k3y-any"),
    ):
        settings = load({**GIVEN, **flags}, environ)
        assert settings.token is not None
        assert settings.token.get_secret_value() == expected
        assert expected not in repr(settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("device: {nmae: x}", "device.nmae: is not a setting"),
        ("token: x", "token: is not a setting"),
        ("server: {host: h, port: '80'}", "server.port: should be a valid integer"),
        ("server: {port: 80}", "server.host: Field required"),
        ("server: {host: h, protocol: ftp}", "server.protocol: should be 'ws', 'wss', 'http' or 'https'"),
        ("device: {platform: 5}", "device.platform: should be 'linux', 'darwin', 'windows' or 'mobile'"),
        ("- x", "the file: should be a valid dictionary"),
        ("a: [", "line 1: expected"),
        ("server: {host: h}\ndevice: {name: a, heartbeat_s: 0}", "device.heartbeat_s: should be greater than 0"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_file(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'client_config.yaml'}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load({**GIVEN, "config": str(tmp_path / "none")}, {})
    assert with_file(tmp_path, "", None, server="ws://h", device_id="lab-1").device_id == "lab-1"


@pytest.mark.parametrize(
    ("flags", "environ", "message"),
    [
        ({"device_id": "x"}, {}, "nothing says server: give --server, or set AIP_DEVICE_SERVER"),
        ({"server": "ws://h"}, {}, "nothing says device.name: give --id, or set AIP_DEVICE_ID"),
        ({**GIVEN, "server": "h:1"}, {}, "--server: must look like ws://host:port/ws"),
        ({**GIVEN, "device_id": "a{b"}, {}, "--id: the id: must not be empty"),
        ({**GIVEN, "log_level": "loud"}, {}, "--log-level: should be 'DEBUG'"),
        ({**GIVEN, "token": "a b"}, {}, "--token: must be printable ASCII"),
        (GIVEN, {"AIP_DEVICE_MAX_IN_FLIGHT": "many"}, "AIP_DEVICE_MAX_IN_FLIGHT: should be a valid integer"),
    ],
)
def test_what_is_wrong_elsewhere_is_named_by_its_flag_or_variable(
    flags: dict[str, Any], environ: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(flags, environ)
    assert message in str(caught.value)


def test_a_variable_that_names_no_setting_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    load(GIVEN, {"AIP_DEVICE_PORT_80_TCP": "tcp://10.0.0.1:80"})
    assert "AIP_DEVICE_PORT_80_TCP names no setting" in caplog.text


@pytest.mark.parametrize(
    ("address", "socket", "rest"),
    [
        ("ws://h:1/ws", "ws://h:1/ws", "http://h:1"),
        ("http://h:1", "ws://h:1/ws", "http://h:1"),
        ("https://h/", "wss://h/ws", "https://h"),
        ("wss://h/aip/ws", "wss://h/aip/ws", "https://h/aip"),
        ("ws://[::1]:5000", "ws://[::1]:5000/ws", "http://[::1]:5000"),
    ],
)
def test_addresses_are_completed(address: str, socket: str, rest: str) -> None:
    assert websocket_url(address) == socket
    assert http_base(address) == rest


@pytest.mark.parametrize("address", ["", "h", "ftp://h", "ws://", "ws://h:x", "ws://u:p@h/ws", "ws://h/ws?key=1"])
def test_addresses_that_cannot_be_used_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        websocket_url(address)
