"""What is between operator and device: filled in, and seen by nobody else."""

import json
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from pydantic import SecretStr

from aip_cluster.protocol import Command
from node.sessions.secrets import ToolSecrets
from node.settings import Settings

KEY = "k3y-of-the-device"
SECRETS = ToolSecrets({"run": {"api_key": SecretStr(KEY), "pin": SecretStr("12")}})


def command(tool_name: str = "run", **parameters: Any) -> Command:
    return Command(tool_name=tool_name, parameters=parameters)


def scrub(secrets: ToolSecrets, fields: dict[str, Any]) -> dict[str, Any]:
    assert secrets.scrub is not None
    return secrets.scrub(fields)


@pytest.mark.parametrize("name", ["run", "BashExecutor.run", "a.b.run"])
def test_a_command_is_sent_with_them_and_stored_without(name: str) -> None:
    given = command(name, line="ls")
    filled = SECRETS.fill(given, given_wins=True)
    assert filled.parameters == {"line": "ls", "api_key": KEY, "pin": "12"}
    assert SECRETS.strip(filled).parameters == {"line": "ls"}
    assert given.parameters == {"line": "ls"}, "the command itself is as it was"


def test_a_command_without_parameters_is_filled_too() -> None:
    assert SECRETS.fill(Command(tool_name="run"), given_wins=True).parameters == {"api_key": KEY, "pin": "12"}


def test_what_a_dispatch_gives_is_sent_as_it_is_and_stored_without() -> None:
    given = command(line="ls", api_key="another")
    assert SECRETS.fill(given, given_wins=True).parameters == {"line": "ls", "api_key": "another", "pin": "12"}
    made_up = SECRETS.fill(given, given_wins=False).parameters
    assert made_up == {"line": "ls", "api_key": KEY, "pin": "12"}, "what a model made up is not sent"
    assert SECRETS.strip(given).parameters == {"line": "ls"}


def test_other_tools_are_left_alone() -> None:
    given = command("walk", api_key="theirs")
    assert SECRETS.fill(given, given_wins=True) is given
    assert SECRETS.strip(given) is given


def test_the_schema_that_a_planner_sees_knows_nothing_of_them() -> None:
    schema = {
        "type": "object",
        "properties": {"line": {"type": "string"}, "api_key": {"type": "string"}, "pin": {"type": "string"}},
        "required": ["line", "api_key"],
    }
    assert SECRETS.hide("run", schema) == {
        "type": "object",
        "properties": {"line": {"type": "string"}},
        "required": ["line"],
    }
    assert SECRETS.hide("walk", schema) == schema
    assert "api_key" in schema["properties"], "the device's own is as it was"


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": None},
        {"required": None},
        {"properties": ["api_key"]},
        {"required": "api_key"},
        {"properties": 5},
    ],
    ids=str,
)
def test_a_schema_that_is_none_breaks_nothing(schema: dict[str, Any]) -> None:
    assert "api_key" not in orjson.dumps(SECRETS.hide("run", schema)).decode()


@pytest.mark.parametrize(
    "value",
    [
        KEY,
        f"usage: run --key {KEY} --key {KEY}",
        {"a": {"b": [1, None, {"c": f"<{KEY}>"}]}},
        {KEY: {KEY: 1}},
        [[[KEY]]],
    ],
    ids=str,
)
def test_no_result_holds_them_however_deep(value: Any) -> None:
    scrubbed = scrub(SECRETS, {"result": value, "error": f"failed with {KEY}"})
    assert KEY not in str(scrubbed)
    assert "[redacted]" in str(scrubbed["result"])
    assert scrubbed["error"] == "failed with [redacted]"


@pytest.mark.parametrize("key", ['qu"ote-1234', "back\\slash-1234", "new\nline-1234", "größe-1234", "</tag>-1234"])
def test_a_key_that_json_writes_otherwise_is_struck_out_all_the_same(key: str) -> None:
    secrets = ToolSecrets({"run": {"api_key": SecretStr(key)}})
    assert scrub(secrets, {"a": [key]}) == {"a": ["[redacted]"]}
    assert scrub(secrets, {"a": f"it is {key}"}) == {"a": "it is [redacted]"}
    written = {
        "as JSON": f"{{{json.dumps(key, ensure_ascii=False)}}}",
        "as a URL": f"http://x/?key={quote(key, safe='')}",
    }
    assert scrub(secrets, written) == {"as JSON": '{"[redacted]"}', "as a URL": "http://x/?key=[redacted]"}


def test_what_holds_none_is_handed_on_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "text 12"]}
    assert scrub(SECRETS, value) == value
    assert ToolSecrets({}).scrub is None, "where there are none, no frame is looked at"


def test_by_what_a_frame_finds_its_way_it_still_does() -> None:
    fields = {"type": "task_end", "session_id": KEY, "client_id": KEY, "prev_response_id": KEY, "call_id": KEY}
    assert scrub(SECRETS, fields) == {**fields, "call_id": "[redacted]"}


def test_the_longest_of_several_is_struck_out_whole() -> None:
    secrets = ToolSecrets({"run": {"a": SecretStr("abcd"), "b": SecretStr("abcdefgh")}})
    assert scrub(secrets, {"a": "abcdefgh abcd"}) == {"a": "[redacted] [redacted]"}


def test_a_number_that_is_one_is_struck_out_too() -> None:
    secrets = ToolSecrets({"run": {"pin": SecretStr("739105")}})
    assert "739105" not in str(scrub(secrets, {"pin": 739105}))


def test_the_settings_take_them_as_json_and_do_not_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_TOOL_SECRETS", orjson.dumps({"run": {"api_key": KEY}}).decode())
    settings = Settings()
    assert settings.tool_secrets["run"]["api_key"].get_secret_value() == KEY
    assert KEY not in repr(settings)
    assert KEY not in settings.model_dump_json()
