"""Logs: one record, one line, whatever a peer put into it; and no key in it."""

import logging
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from node.telemetry.logs import configure

Read = Callable[[], list[str]]
log = logging.getLogger("tests.logs")

LINE_BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Read:
    """What was written to standard error, by line feeds."""

    def lines() -> list[str]:
        text = capsys.readouterr().err
        assert text == "" or text.endswith("\n")
        return text.split("\n")[:-1]

    return lines


def test_a_line_of_text_says_when_how_bad_where_and_what(read: Read) -> None:
    configure("INFO", "text")
    log.warning("it happened", extra={"client_id": "device-1", "count": 3})
    (line,) = read()
    assert line.endswith(" WARNING tests.logs: it happened client_id=device-1 count=3")
    assert line.split(" ")[0].endswith("Z")


def test_a_line_of_json_has_the_facts_as_fields(read: Read) -> None:
    configure("INFO", "json")
    log.warning("it happened", extra={"client_id": "device-1", "count": 3})
    (line,) = read()
    entry = orjson.loads(line)
    assert entry.pop("at").endswith("+00:00")
    assert entry == {
        "level": "WARNING",
        "logger": "tests.logs",
        "message": "it happened",
        "client_id": "device-1",
        "count": 3,
    }


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("line_break", LINE_BREAKS, ids=ascii)
def test_no_value_can_forge_a_line(read: Read, style: str, line_break: str) -> None:
    forged = f"x{line_break}2026-01-01T00:00:00.000Z INFO    node: all is well"
    configure("INFO", style)
    log.info("said %s", forged, extra={"client_id": forged, "list": [forged]})
    log.info("next")
    lines = read()
    assert len(lines) == 2
    assert all(len(line.splitlines()) == 1 for line in lines)
    assert lines[1].endswith("next") or orjson.loads(lines[1])["message"] == "next"


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_exception_is_one_line_too(read: Read, style: str) -> None:
    configure("INFO", style)
    try:
        raise ValueError("several\nlines\r\nof text")
    except ValueError:
        log.exception("it failed")
    (line,) = read()
    assert "ValueError" in line
    assert "test_logs" in line


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, 2**70, b"\xff", "\ud800", {1: 2}, float("nan"), None],
    ids=["object", "set", "large number", "bytes", "surrogate", "number as a key", "nan", "none"],
)
def test_no_value_costs_the_record(read: Read, style: str, value: Any) -> None:
    configure("INFO", style)
    log.info("kept", extra={"fact": value})
    (line,) = read()
    assert "kept" in line
    assert "fact" in line


SECRETS = ["/ws?token=hunter2", "/ws?a=b&token=hunter2&c=d", "wss://h/ws?TOKEN=hunter2", "x?api_key=hunter2 y"]


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("secret", SECRETS)
def test_a_key_in_an_url_is_never_written(read: Read, style: str, secret: str) -> None:
    configure("INFO", style)
    log.info("asked for %s", secret, extra={"url": secret, "urls": [secret], "inner": {"url": secret}})
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("refused")
    lines = read()
    assert len(lines) == 2
    for line in lines:
        assert "hunter2" not in line
        assert "[redacted]" in line
    assert "c=d" in lines[0] or "c=d" not in secret, "only the key is taken out"


def test_below_the_level_nothing_is_written(read: Read) -> None:
    configure("WARNING", "text")
    log.info("quiet")
    log.warning("loud")
    assert len(read()) == 1


def test_off_writes_nothing_at_all_and_can_be_taken_back(read: Read) -> None:
    configure("OFF", "text")
    log.critical("nothing")
    assert read() == []
    configure("INFO", "text")
    log.info("again")
    assert len(read()) == 1


def test_uvicorn_speaks_through_the_same_lines_and_only_when_it_matters(read: Read) -> None:
    configure("INFO", "json")
    logging.getLogger("uvicorn.error").info("connection open")
    logging.getLogger("uvicorn.error").error("it broke")
    (line,) = read()
    assert orjson.loads(line)["message"] == "it broke"
