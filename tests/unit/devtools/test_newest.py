"""The look at the newest releases: nothing is installed where they are those of the lock."""

from pathlib import Path

import pytest

from devtools import newest
from devtools.bootstrap import DEV, ROOT
from devtools.lock import pins


def test_a_lock_differs_from_itself_in_nothing() -> None:
    assert pins(DEV)
    assert newest.changes(DEV, DEV) == []


def test_a_newer_release_is_named(tmp_path: Path) -> None:
    resolved = tmp_path / "requirements.txt"
    resolved.write_text("orjson==99.1\n" + DEV.read_text(encoding="utf-8"), encoding="utf-8")
    assert newest.changes(DEV, resolved) == ["orjson==99.1"]


def test_what_is_run_are_tests_that_are_there() -> None:
    there = {path.stem for path in (ROOT / "tests" / "unit").rglob("test_*.py")}
    assert set(newest.NEAREST) - there == set(), "renamed? devtools/newest.py"


def test_where_nothing_is_newer_nothing_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The resolution is that of an index which has nothing newer; uv is not asked to install."""
    monkeypatch.setattr(newest, "FOLDER", tmp_path)
    monkeypatch.setattr(newest, "compile_lock", lambda _, target, *__: target.write_bytes(DEV.read_bytes()))
    monkeypatch.setattr(newest, "_uv", lambda *_: pytest.fail("something was installed"))
    assert newest.main() == 0
    assert "Skipped: the newest releases are those of" in capsys.readouterr().out
