"""Patterns of ids mean what `fnmatch.fnmatchcase` says, without a regular expression."""

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.sessions.globs import PATTERN_CHARS, Glob, Globs, is_pattern

# `!` only begins a set here: behind an empty range such as `[b-a!c]` fnmatch takes it for a negation.
PATTERNS = st.lists(st.sampled_from(["a", "b", "-", "*", "?", "[", "]", "[!", "ü", "a-c", "]*"]), max_size=16)
TEXTS = st.text("abc-]ü!", max_size=12)


@given(PATTERNS, TEXTS)
def test_a_pattern_means_what_fnmatch_says(parts: list[str], text: str) -> None:
    pattern = "".join(parts)
    assert Glob(pattern).matches(text) == fnmatch.fnmatchcase(text, pattern)


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not_fit"),
    [
        ("build-*", ["build-", "build-7"], ["build", "a-build-7"]),
        ("*", ["", "x"], []),
        ("kiosk-??", ["kiosk-42"], ["kiosk-4", "kiosk-423"]),
        ("*-[0-9]", ["a-1", "a-1-2"], ["a-x", "a-12"]),
        ("[!ab]*", ["c", "ca"], ["", "a", "bc"]),
        ("[]]", ["]"], ["["]),
        ("[a", ["[a"], ["a"]),
        ("a*b*c", ["abc", "a1b2c"], ["ab", "acb"]),
        ("plain", ["plain"], ["plain2", "plai"]),
        ("", [""], ["x"]),
    ],
)
def test_what_fits(pattern: str, fits: list[str], does_not_fit: list[str]) -> None:
    glob = Glob(pattern)
    assert all(glob.matches(text) for text in fits)
    assert not any(glob.matches(text) for text in does_not_fit)


def test_a_pattern_longer_than_an_id_is_refused() -> None:
    Glob("*" * PATTERN_CHARS)
    with pytest.raises(ValueError, match="256 characters"):
        Glob("*" * (PATTERN_CHARS + 1))


def test_plain_ids_and_patterns_may_be_given_together() -> None:
    globs = Globs(["device-1", "build-*", "device-1"])
    assert [text for text in ("device-1", "build-9", "device-2") if globs.match(text)] == ["device-1", "build-9"]
    assert [is_pattern(p) for p in ("device-1", "a*", "a?", "a[b]")] == [False, True, True, True]


def test_no_regular_expression_is_compiled_or_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*_: object) -> None:
        pytest.fail("a pattern became a regular expression")

    monkeypatch.setattr(re, "compile", compiled)
    assert Glob("[a-z]*?" * 36).matches("a" * 256)
