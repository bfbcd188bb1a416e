"""`scripts/chart`: what it prints is what Helm renders, and a refusal is Helm's sentence."""

from pathlib import Path

import pytest
import yaml

from devtools.chart.command import main
from devtools.chart.rendering import rendered, values_of
from devtools.chart.schema import SCHEMA
from tests.helm.conftest import CASES


def test_the_summary_counts_every_object_of_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary"]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    table = {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows}
    for case, path in CASES.items():
        assert table["**all**"][case] == str(len(rendered(values_of(path)).documents))
    assert table["HTTPRoute"]["cluster"] == "1"
    assert table["HTTPRoute"]["default"] == ""


def test_what_is_rendered_can_be_given_to_kubernetes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(CASES["ha"])]) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == rendered(values_of(CASES["ha"])).documents


def test_a_refusal_is_said_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("terminationGracePeriodSeconds: 10")
    assert main(["render", str(values)]) == 1
    assert "must be at least 155" in capsys.readouterr().err


def test_the_schema_is_written_as_it_is_kept() -> None:
    before = SCHEMA.read_bytes()
    assert main(["schema"]) == 0
    assert SCHEMA.read_bytes() == before
