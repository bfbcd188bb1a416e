"""Grafana's dashboards: as the generator writes them, whole, and about metrics that exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from devtools.dashboards.answers import filled_in
from devtools.dashboards.boards import BOARDS
from devtools.dashboards.command import DIRECTORY, files
from devtools.dashboards.grafana import SOURCE, VARIABLES, grafana
from devtools.dashboards.model import COLUMNS, Dashboard, Kind, Panel, Query, Row, lines
from devtools.dashboards.prometheus import RULES

ROOT = Path(__file__).resolve().parents[3]
CATALOGUE = (ROOT / "docs" / "METRICS.md").read_text(encoding="utf-8")
RECORDED = {
    rule["record"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "record" in rule
}
# Prometheus' own.
FOREIGN = {"up", "ALERTS"}
CHOSEN = {"cluster": "c", "namespace": "n", "job": "j", "instance": "i"}

each_board = pytest.mark.parametrize("board", BOARDS, ids=[board.name for board in BOARDS])


def queries(board: Dashboard) -> list[str]:
    return [query.promql for panel in board.panels() for query in panel.queries]


def metrics_of(promql: str) -> set[str]:
    """Names before a selector."""
    return set(re.findall(r"([a-zA-Z_:][\w:]*)\s*\{", promql))


def test_the_files_are_what_the_generator_writes() -> None:
    """Run `scripts/dashboards` after a change of a panel."""
    assert {path: path.read_text(encoding="utf-8") for path in DIRECTORY.glob("*.json")} == files()


def test_names_are_unique() -> None:
    assert len({board.name for board in BOARDS}) == len({board.title for board in BOARDS}) == len(BOARDS)
    for board in BOARDS:
        titles = [panel.title for panel in board.panels()]
        assert len(set(titles)) == len(titles)


@each_board
def test_every_panel_says_what_it_shows(board: Dashboard) -> None:
    for panel in board.panels():
        assert panel.description.endswith("."), panel.title
        assert panel.queries
        assert all(query.legend for query in panel.queries)


@each_board
def test_every_metric_is_in_the_catalogue_or_recorded(board: Dashboard) -> None:
    for promql in queries(board):
        names = metrics_of(promql)
        assert names, promql
        for name in names - FOREIGN - RECORDED:
            base = re.sub(r"_(bucket|count|sum)$", "", name)
            assert {f"`{name}`", f"`{base}`"} & set(re.findall(r"`\w+`", CATALOGUE)), f"{name} in {promql}"


@each_board
def test_every_query_can_be_narrowed_down_to_a_cluster(board: Dashboard) -> None:
    for promql in queries(board):
        for selector in re.findall(r"\{[^{}]*\}", promql):
            assert "$job" in selector or "alertname" in selector, promql


@each_board
def test_what_one_node_tells_for_the_cluster_is_not_added_up_over_nodes(board: Dashboard) -> None:
    for promql in queries(board):
        if "aip_cluster_" in promql:
            assert re.search(r"max( by \(\w+\))? ?\(aip_cluster_", promql), promql
            assert "$instance" not in promql


@each_board
def test_no_two_panels_lie_on_each_other_or_outside(board: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in grafana(board)["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert all(0 <= x < COLUMNS for x, _ in cells)
        taken |= cells


@each_board
def test_the_json_is_what_grafana_takes(board: Dashboard) -> None:
    made: dict[str, Any] = json.loads(files()[DIRECTORY / f"aip-{board.name}.json"])
    assert made["uid"] == f"aip-{board.name}"
    assert len(made["uid"]) <= 40
    names = [variable["name"] for variable in made["templating"]["list"]]
    assert names == ["datasource", *(name for name, _, _ in VARIABLES)]
    ids = [panel["id"] for panel in made["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in made["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == SOURCE
        assert panel["fieldConfig"]["defaults"]["unit"]
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[0]["value"] is None
        assert [s["value"] for s in steps[1:]] == sorted(s["value"] for s in steps[1:])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        used = {found for target in panel["targets"] for found in re.findall(r"\$(\w+)", target["expr"])}
        assert used <= {*names, "__rate_interval"}


def test_a_row_breaks_where_its_panels_do_not_fit_any_more() -> None:
    panel = lines("a", "b.", ("c", "d"))
    row = Row("row", (panel.wide(12), panel.wide(8), panel.wide(8), panel.wide(8)))
    assert [(column, line) for _, column, line in row.places()] == [(0, 0), (12, 0), (0, 8), (8, 8)]


def test_abbreviations_and_variables_are_filled_in() -> None:
    query = Query('rate(x{@node,a="b"}[@rate]) / y{@cluster}', "x")
    assert filled_in(query.promql, CHOSEN) == (
        'rate(x{cluster=~"c",namespace=~"n",job=~"j",instance=~"i",a="b"}[10s]) '
        '/ y{cluster=~"c",namespace=~"n",job=~"j"}'
    )


def test_thresholds_are_colours_from_a_value_on() -> None:
    panel = lines("a", "b.", ("c", "d")).limits(1, 2)
    board = Dashboard("x", "X", "y", (Row("r", (panel, panel.at_least(1, 2))),))
    _, low, high = grafana(board)["panels"]
    assert [s["color"] for s in low["fieldConfig"]["defaults"]["thresholds"]["steps"]] == ["green", "orange", "red"]
    assert [s["color"] for s in high["fieldConfig"]["defaults"]["thresholds"]["steps"]] == ["red", "orange", "green"]


def test_a_table_is_one_row_a_node() -> None:
    panel = Panel("t", "d.", (Query("a", "first"), Query("b", "second")), kind=Kind.TABLE)
    made = grafana(Dashboard("x", "X", "y", (Row("r", (panel,)),)))["panels"][1]
    assert [target["format"] for target in made["targets"]] == ["table", "table"]
    assert made["transformations"][0]["id"] == "merge"
    assert made["transformations"][1]["options"]["renameByName"] == {"Value #A": "first", "Value #B": "second"}
