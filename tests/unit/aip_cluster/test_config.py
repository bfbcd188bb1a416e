"""Where settings come from, and what is said about those that cannot be used."""

from pathlib import Path
from typing import Any

import pytest

from aip_cluster.device.config import ConfigError, Settings, load, system_platform
from aip_cluster.sockets import http_base, websocket_url

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
    settings = load({**GIVEN, "device_id": "lab/a:b"}, {})
    assert settings.workdir == Path.home() / ".aip-device" / "lab_a_b"
    with pytest.raises(ConfigError, match=r"no '\.\.'"):
        load({**GIVEN, "device_id": "../../etc/x"}, {})


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
        ({**GIVEN, "device_id": "a{b"}, {}, "--id: the id: must be letters"),
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


def servers(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> dict[str, Any]:
    settings = with_file(tmp_path, text, environ, **GIVEN)
    return {spec.namespace: spec for spec in settings.mcp_servers}


def test_the_agents_own_tools_are_there_unless_they_are_turned_off(tmp_path: Path) -> None:
    assert [spec.type for spec in load(GIVEN, {}).mcp_servers] == ["builtin"]
    assert list(servers(tmp_path, "mcp_servers: []")) == ["local"]
    assert list(servers(tmp_path, "mcp_servers: [{type: builtin, namespace: BashExecutor}]")) == ["BashExecutor"]
    assert list(servers(tmp_path, "mcp_servers: {local: {type: builtin, enabled: false}}")) == []
    agents = servers(tmp_path, "mcp_servers: {local: {type: builtin, agent: LinuxAgent, timeout_s: 5}}")["local"]
    assert (agents.agents, agents.timeout_s) == (["LinuxAgent"], 5)


def test_servers_are_a_list_or_a_map(tmp_path: Path) -> None:
    entry = "type: stdio, command: python3, args: [-m, x], env: {A: 'b ${C}'}, cwd: /tmp, agent: [H, A]"
    for text in (f"mcp_servers: [{{namespace: s, {entry}}}]", f"mcp_servers: {{s: {{{entry}}}}}"):
        found = servers(tmp_path, text, {"C": "s3cret"})
        assert list(found) == ["local", "s"]
        assert (found["s"].command, found["s"].args, found["s"].agents) == ("python3", ["-m", "x"], ["H", "A"])
        assert found["s"].env["A"].get_secret_value() == "b s3cret"
        assert found["s"].timeout_s == 120
        assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mcp_servers: 5", "mcp_servers: must be a list or a map of servers"),
        ("mcp_servers: [5]", "mcp_servers.0: must be a map of settings"),
        ("mcp_servers: [{type: telnet}]", "mcp_servers.0.type: must be one of builtin, python, stdio, http"),
        ("mcp_servers: [{type: stdio, command: x}]", "mcp_servers.0.namespace: Field required"),
        ("mcp_servers: {s: {type: stdio}}", "mcp_servers.s.command: Field required"),
        ("mcp_servers: {s: {type: stdio, command: x, urk: 1}}", "mcp_servers.s.urk: is not a setting"),
        ("mcp_servers: {s.t: {type: stdio, command: x}}", "mcp_servers.s.t.namespace: String should match"),
        ("mcp_servers: {s: {type: stdio, command: x, timeout_s: 0}}", "mcp_servers.s.timeout_s: should be greater"),
        ("mcp_servers: {s: {type: stdio, command: x, args: y}}", "mcp_servers.s.args: should be a valid list"),
        ("mcp_servers: {s: {type: stdio, command: x, tool_type: y}}", "mcp_servers.s.tool_type: should be 'action'"),
        (
            "mcp_servers: {s: {type: stdio, command: x, env: {A: 5}}}",
            "mcp_servers.s.env.A: must be a string (quote it)",
        ),
        (
            "mcp_servers: {s: {type: stdio, command: x, env: {A: '${NOT_SET}'}}}",
            "mcp_servers.s.env.A: the variable 'NOT_SET' is not set",
        ),
        ("mcp_servers: {s: {type: http, url: 'ftp://h'}}", "mcp_servers.s.url: must look like http://host:port/mcp"),
        ("mcp_servers: {s: {type: http, url: 'http://u:p@h/'}}", "mcp_servers.s.url: must not carry credentials"),
        (
            "mcp_servers: {s: {type: http, url: 'http://h', headers: {'A b': c}}}",
            "mcp_servers.s.headers: 'A b' cannot name a header",
        ),
        (
            'mcp_servers: {s: {type: http, url: "http://h", headers: {A: "s3cret\\n"}}}',
            "mcp_servers.s.headers: the value of A must be printable ASCII",
        ),
        (
            "mcp_servers: {s: {type: python, target: x}}",
            "mcp_servers.s.target: must look like package.module:attribute",
        ),
        ("mcp_servers: {local: {type: stdio, command: x}}", "mcp_servers: 'local' is the namespace of the agent's own"),
        (
            "mcp_servers: [{namespace: a, type: builtin}, {namespace: a, type: stdio, command: x}]",
            "mcp_servers.1.namespace: 'a' is the namespace of another server",
        ),
        (
            "mcp_servers: [{namespace: a, type: builtin}, {namespace: b, type: builtin}]",
            "mcp_servers: there is one server of type builtin",
        ),
        ("device: {tags: [5]}", "device.tags.0: should be a valid string"),
        ("device: {tags: ['']}", "device.tags.0: String should have at least 1 character"),
        ("device: {custom_metadata: {1: {2: 3}}}", "device.custom_metadata.1"),
        ("device: {custom_metadata: {a: {2: 3}}}", "device.custom_metadata: holds a value that JSON cannot carry"),
        ("device: {max_answer_bytes: 1}", "device.max_answer_bytes: should be greater than or equal to 65536"),
    ],
)
def test_what_is_wrong_about_a_server_is_named_by_its_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_file(tmp_path, text, {}, **GIVEN)
    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tags_metadata_and_limits_come_from_the_file(tmp_path: Path) -> None:
    text = (
        "device: {tags: [lab, gpu], custom_metadata: {since: 2026-01-02, floor: 3}, max_answer_bytes: 65536,"
        " max_file_bytes: 0, profile_refresh_s: 60}"
    )
    settings = with_file(tmp_path, text, {"AIP_DEVICE_MAX_FILE_BYTES": "7"}, **GIVEN)
    assert settings.tags == ("lab", "gpu")
    assert settings.custom_metadata == {"since": "2026-01-02", "floor": 3}
    assert (settings.max_answer_bytes, settings.max_file_bytes, settings.profile_refresh_s) == (65536, 7, 60)
