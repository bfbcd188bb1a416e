"""Identifiers: made to sort by time, and names from outside that can lead nobody astray."""

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aip_cluster.protocol import ProtocolError, new_id, utc_now
from aip_cluster.protocol.ids import (
    MAX_ID_CHARS,
    check_client_id,
    check_session_id,
    check_task_name,
    check_task_path,
    made_ms,
    now_ms,
)

Check = Callable[[str], str]


def test_an_id_is_a_canonical_uuid_of_version_7() -> None:
    text = new_id()
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122


def test_an_id_carries_its_time() -> None:
    before = now_ms()
    made = new_id()
    stamp = uuid.UUID(made).int >> 80
    assert before <= stamp <= now_ms()
    assert made_ms(made) == stamp


_STEP_NS = 250
_LAST = 2**48 * 1_000_000 // _STEP_NS - 1


@given(st.lists(st.integers(0, _LAST), unique=True, min_size=2, max_size=20))
@example([0, _LAST])
@example([7, 8, 3999, 4000, 4001])
def test_ids_sort_by_time_to_a_quarter_of_a_microsecond(times: list[int]) -> None:
    made: dict[int, str] = {}
    with pytest.MonkeyPatch.context() as clock:
        for at in times:
            clock.setattr(time, "time_ns", lambda at=at: at * _STEP_NS)
            made[at] = new_id()
    assert [made[t] for t in sorted(times)] == sorted(made.values())


def test_version_and_variant_hold_for_any_random_bits() -> None:
    with pytest.MonkeyPatch.context() as dice:
        for bits in (b"\x00" * 8, b"\xff" * 8):
            dice.setattr("os.urandom", lambda _, bits=bits: bits)
            parsed = uuid.UUID(new_id())
            assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)


def test_ids_are_unique_within_a_millisecond() -> None:
    assert len({new_id() for _ in range(50_000)}) == 50_000


def test_the_time_on_the_wire_is_iso_8601_in_utc() -> None:
    parsed = datetime.fromisoformat(utc_now())
    assert parsed.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - parsed) < timedelta(minutes=5)


# -- names from outside ----------------------------------------------------------------------------------------------
CLIENT_IDS = [
    "d",
    "linux_agent_1",
    "boss@device-1",
    "a/b",
    "a:b",
    "galaxy_2026@task_1",
    "01a22f22-c4b7-7c77-aeb5-886cc59e36b6",
    "x" * MAX_ID_CHARS,
    "-",
    "a.",
]
BAD_CLIENT_IDS = [
    *("", " a", "a{b", "a}b", "{", "x" * (MAX_ID_CHARS + 1), "\ud800", "a\udfff"),
    *(f"a{c}b" for c in "\n\r\t\0\x1b\x7f\x85\x9f\u2028\u2029"),
    *("\u00a0a", "\na", "a\n"),
    # What looks like another id, or like nothing.
    *(
        "device\u200b-1",
        "device\u2060",
        "\ufeffdevice",
        "a\u202eb",
        "a\u2066b",
        "\uff44evice",
        "dev\u0456ce",
        "a\u00adb",
    ),
    *("a b", "Ger\u00e4t", "\u8bbe\u5907", "a\\b", "a%2fb", "a?b", "a#b", "a*b", "a'b", 'a"b', "a<b", "a,b", "a+b"),
    *(".", "..", ".a", "a..b", "../a", "a/../b", "a/.b", "/.a", "a/.."),
]


@pytest.mark.parametrize("check", [check_client_id, check_session_id])
@pytest.mark.parametrize("value", CLIENT_IDS)
def test_plain_ids_pass_unchanged(check: Check, value: str) -> None:
    assert check(value) == value


@pytest.mark.parametrize("check", [check_client_id, check_session_id])
@pytest.mark.parametrize("value", BAD_CLIENT_IDS, ids=ascii)
def test_ids_that_could_forge_a_key_or_a_line_are_refused(check: Check, value: str) -> None:
    with pytest.raises(ProtocolError):
        check(value)


@pytest.mark.parametrize("value", ["a", "A.b-c_d", "0", "-x", "_", "a..b", "x" * MAX_ID_CHARS])
def test_plain_task_names_pass_unchanged(value: str) -> None:
    assert check_task_name(value) == value
    assert check_task_path(value) == value


TRAVERSALS = [
    *("../x", "a/../b", "..", ".", "./x", ".hidden", "a/.hidden", "a/..", "a/."),
    *("/etc/passwd", "/", "//x", "a//b", "a/", "C:\\x", "C:/x", "c:x", "a\\b", "..\\x", "\\\\host\\share"),
    *("%2e%2e/x", "..%2fx", "%2e", "a%00b", "a%b"),
    *("a\0b", "a\nb", "a\rb", "a\r\nb", "a\x1bb", "a\x7fb", "a\x85b", "a\u2028b", "a{b", "a}b", "{a}"),
    *("a\u200bb", "a\u202eb", "\uff41", "\u00e4", "a/ b", "a /b", " a", "a "),
    *("", "\ud800", "a/\ud800", "a\n", "\na", "x" * (MAX_ID_CHARS + 1)),
]


@pytest.mark.parametrize("value", TRAVERSALS, ids=ascii)
def test_names_that_could_lead_elsewhere_are_refused(value: str) -> None:
    for check in (check_task_name, check_task_path):
        with pytest.raises(ProtocolError):
            check(value)


@pytest.mark.parametrize("value", ["a/b", "a b", "a+b", "a@b", "a~", "galaxy/run 1/step (2)"])
def test_a_task_name_over_rest_is_stricter_than_on_the_wire(value: str) -> None:
    assert check_task_path(value) == value
    with pytest.raises(ProtocolError):
        check_task_name(value)


@pytest.mark.parametrize("check", [check_client_id, check_session_id, check_task_name, check_task_path])
@given(value=st.text(st.characters(), max_size=300))
def test_what_passes_is_unchanged_and_plain(check: Check, value: str) -> None:
    try:
        passed = check(value)
    except ProtocolError:
        return
    assert passed == value
    assert 0 < len(value) <= MAX_ID_CHARS
    assert not any(c in value for c in "{}\n\r\0")


@given(st.text(st.characters(), max_size=40))
def test_no_task_path_that_passes_leaves_its_folder(value: str) -> None:
    try:
        check_task_path(value)
    except ProtocolError:
        return
    assert all(part not in {"", ".", ".."} for part in value.split("/"))
    assert not set(value) & set("\\:%{}")


@pytest.mark.parametrize("check", [check_client_id, check_session_id, check_task_name, check_task_path])
def test_the_error_names_the_field_that_was_given(check: Callable[..., str]) -> None:
    for value in ("", "x" * 1_000):
        with pytest.raises(ProtocolError) as told:
            check(value, "target_id")
        assert told.value.field == "target_id"
        assert str(told.value).startswith("target_id: ")
