"""`docs/METRICS.md` and the node say the same: dashboards and alerts are written from the page."""

import re
from pathlib import Path

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "METRICS.md").read_text(encoding="utf-8")
LABEL = re.compile(r"`([a-z_]+)`(?=:|, `|$)")
# Told by the library of every process, and listed without a table.
OF_EVERY_PROCESS = ("process_", "python_gc_")


class Row:
    """One metric of the page."""

    def __init__(self, line: str) -> None:
        name, kind, labels, self.meaning = (cell.strip() for cell in line.strip("|").split("|"))
        self.name = name.strip("`")
        self.kind = re.split(r"\W", kind)[0]
        self.buckets = next(iter(re.findall(r"\*([a-z]+)\*", kind.replace("*exemplar*", ""))), None)
        self.labels = set(LABEL.findall(labels))
        self.described = labels


ROWS = {row.name: row for row in map(Row, re.findall(r"^\| `aip_.*$", PAGE, re.MULTILINE))}
BUCKETS = {
    name: ["fast" if bound.startswith("*") else float(bound) for bound in bounds.replace(",", "").split()]
    for name, bounds in re.findall(r"^\| \*\*([a-z]+)\*\* \| (.*) \|$", PAGE, re.MULTILINE)
}


@pytest.fixture
async def exposed(api: httpx.AsyncClient) -> dict[str, Metric]:
    """What a node exposes, by the names of the page, once it has answered something."""
    await api.get("/api/clients")
    text = (await api.get("/metrics")).text
    return {f.name + "_total" * (f.type == "counter"): f for f in text_string_to_metric_families(text)}


def test_the_page_has_rows() -> None:
    assert len(ROWS) > 60
    assert set(BUCKETS) == {"fast", "http", "stage", "task", "lag", "model"}


def test_every_metric_is_on_the_page_and_on_the_node(exposed: dict[str, Metric]) -> None:
    names = {name for name in exposed if not name.startswith(OF_EVERY_PROCESS)}
    assert names == set(ROWS)
    others = [name for name in exposed if name.startswith(OF_EVERY_PROCESS)]
    assert [name for name in others if f"`{name}`" not in PAGE] == []


def test_types_labels_and_buckets_are_as_the_page_says(exposed: dict[str, Metric]) -> None:
    for name, row in ROWS.items():
        family = exposed[name]
        assert family.type == row.kind, name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels == row.labels, name
        bounds = sorted({float(s.labels["le"]) for s in family.samples if "le" in s.labels})
        if row.buckets is not None:
            expected = [b for bound in BUCKETS[row.buckets] for b in (BUCKETS["fast"] if bound == "fast" else [bound])]
            assert bounds == [*expected, float("inf")], name
        else:
            assert not bounds, name


@pytest.mark.parametrize(
    "name", [n for n, row in ROWS.items() if "all at 0" in row.described or "both" in row.described]
)
def test_listed_values_are_exposed_from_the_start(exposed: dict[str, Metric], name: str) -> None:
    row, family = ROWS[name], exposed[name]
    (label,) = row.labels
    values = {sample.labels[label] for sample in family.samples}
    listed = re.search(r": ([a-z_ ]+)\(", row.described)
    assert listed is not None, row.described
    assert values == set(listed[1].split())
