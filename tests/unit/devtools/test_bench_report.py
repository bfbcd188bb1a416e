"""Results of `scripts/bench`: kept as they were, compared with earlier ones, made into documents that keep notes."""

import json
from pathlib import Path

import pytest

from devtools.bench.command import main
from devtools.bench.document import KEPT, performance, write_document
from devtools.bench.errors import BenchError
from devtools.bench.plots import draw
from devtools.bench.processes import parse_cpus
from devtools.bench.report import Report, merged, number, table
from devtools.bench.rows import Contest, Lab, Row
from devtools.bench.rows.base import figure
from devtools.outcome import Exit, ScriptError


def _report(*values: float, name: str = "dispatch") -> Report:
    one = figure(
        f"{name}/x", "tasks ÷ theirs", "", values, better="higher", floor=0.5, aim=0.8, beside={"theirs, /s": [2000.0]}
    )
    return Report({"processor": "a fast one"}, {"rounds": len(values)}, [Row(name, [one], {"all": 1}, "so")])


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    report = _report(0.5, 0.7, 0.6)
    report.plots = {"nodes": {"cluster": {"1": [{"per_s": 5.0}]}}}
    report.write(path)
    again = Report.read(path)
    assert again == report


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}', '{"format": 1}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ScriptError):
        Report.read(path)


def test_the_table_has_three_columns_when_there_was_a_before() -> None:
    text = table(_report(0.6, 0.9, 0.7), _report(0.4))
    assert text.splitlines()[0] == "| what | floor | aim | before | after | beside it |"
    row = text.splitlines()[2]
    assert row == "| tasks ÷ theirs | 0.5 | 0.8 | 0.40 | 0.70 (0.60 to 0.90), floor reached | theirs, /s: 2,000 |"


@pytest.mark.parametrize(("value", "verdict"), [(0.8, "aim reached"), (0.5, "floor reached"), (0.4, "short of")])
def test_more_is_better_where_more_is_better(value: float, verdict: str) -> None:
    assert verdict in table(_report(value))


@pytest.mark.parametrize(("value", "verdict"), [(1.1, "aim reached"), (1.3, "floor reached"), (1.4, "short of")])
def test_less_is_better_where_less_is_better(value: float, verdict: str) -> None:
    one = figure("latency/p50", "p50", "", [value], better="lower", floor=1.3, aim=1.1)
    assert verdict in table(Report({}, {}, [Row("latency", [one], {}, "")]))


def test_of_several_runs_the_last_of_a_row_counts() -> None:
    both = merged([_report(0.1), _report(0.9, name="latency"), _report(0.2)])
    assert {key: one.value.median for key, one in both.figures.items()} == {"dispatch/x": 0.2, "latency/x": 0.9}


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (99.94, "99.9"), (1.234, "1.23"), (0.0, "0.00")])
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_the_document_keeps_what_people_wrote(tmp_path: Path) -> None:
    path = tmp_path / "PERFORMANCE.md"
    write_document(_report(0.5), None, path)
    assert path.read_text().endswith(f"{KEPT}\n")
    path.write_text(f"{path.read_text()}\n## The largest costs\n\nOurs.\n")
    write_document(_report(0.6), None, path)
    text = path.read_text()
    assert text.count("## The largest costs") == 1
    assert text.count(KEPT) == 1
    assert "0.60" in text
    assert "0.50" not in text
    assert "a fast one" in performance(_report(0.6))


def test_the_same_results_give_the_same_picture(tmp_path: Path) -> None:
    sample = {"per_s": 900.0, "p50_us": 400.0, "p99_us": 9000.0, "server_us": 300.0, "redis_us": 90.0}
    curves = {"cluster": {"1": [sample], "256": [sample, {**sample, "per_s": 1100.0}]}, "reference": {"1": [sample]}}
    pictures = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (drawn,) = draw({"concurrency": curves}, tmp_path / name)
        pictures.append(drawn.read_bytes())
    assert pictures[0] == pictures[1]
    assert b"<svg" in pictures[0]
    assert draw({}, tmp_path) == []


@pytest.mark.parametrize(("text", "cpus"), [("0", (0,)), ("0-2,5", (0, 1, 2, 5)), ("3,1", (1, 3))])
def test_processors_are_named_in_ranges(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["", "a", "1-", "2-1"])
def test_what_names_no_processor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"processor|invalid literal"):
        parse_cpus(text)


def test_recorded_results_are_shown_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    _report(0.7).write(path)
    assert main(["--from", str(path), "--before", str(path), "--out", str(tmp_path / "again")]) == 0
    assert "| 0.70 | 0.70, floor reached |" in capsys.readouterr().out
    assert json.loads((tmp_path / "again" / "results.json").read_text())["rows"]


def test_what_was_quick_is_not_judged_and_not_documented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    report = _report(0.9)
    report.options = {"quick": True}
    report.write(path)
    assert main(["--from", str(path), "--document"]) == 1
    said = capsys.readouterr()
    assert "0.90" in said.out
    assert "reached" not in said.out
    assert "no document" in said.err


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are measured in no time, but for `idle`, which does not work."""

    async def measure(name: str, lab: Lab, contest: Contest) -> Row:
        if name == "idle":
            raise BenchError("nobody was idle")
        return _report(0.7, name=name).rows[0]

    monkeypatch.setattr("devtools.bench.command.measure", measure)
    monkeypatch.setattr("devtools.bench.command.pin", lambda *_: None)


@pytest.mark.usefixtures("measured")
def test_rows_are_added_to_those_that_were_measured_before(tmp_path: Path) -> None:
    earlier = merged([_report(0.1), _report(0.2, name="commands")])
    earlier.write(tmp_path / "results.json")
    assert main(["listing", "commands", "--out", str(tmp_path)]) == 0
    both = Report.read(tmp_path / "results.json")
    assert {key: one.value.median for key, one in both.figures.items()} == {
        "dispatch/x": 0.1,
        "commands/x": 0.7,
        "listing/x": 0.7,
    }
    assert [bool(row.when) for row in both.rows] == [False, True, True]


@pytest.mark.usefixtures("measured")
def test_what_does_not_work_is_named_and_the_rest_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "idle", "listing", "--out", str(tmp_path), "--document"]) == 1
    assert [row.name for row in Report.read(tmp_path / "results.json").rows] == ["memory", "listing"]
    said = capsys.readouterr()
    assert "idle: nobody was idle" in said.err
    assert "Not measured: idle." in said.out
    assert "PERFORMANCE.md" not in said.out


@pytest.mark.usefixtures("measured")
def test_what_was_quick_is_not_added_to_what_was_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _report(0.1).write(tmp_path / "results.json")
    assert main(["listing", "--quick", "--out", str(tmp_path)]) == Exit.USAGE
    assert "without --quick" in capsys.readouterr().err
    assert Report.read(tmp_path / "results.json") == _report(0.1)


@pytest.mark.parametrize("arguments", [["nonsense"], ["--quick", "--document"], ["--rounds", "-1"]])
def test_a_wrong_command_line_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
