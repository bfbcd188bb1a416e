"""What a dashboard consists of: rows of panels, each with its queries. Nothing here knows of Grafana's JSON.

Queries are PromQL with three abbreviations, so that the selectors are spelled once: `@node` for the labels that choose
nodes, `@cluster` for those that choose a cluster (for metrics that one node tells for all), `@rate` for the window of a
rate that fits the scrape interval.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

__all__ = [
    "CLUSTER",
    "NODE",
    "RATE",
    "Dashboard",
    "Kind",
    "Panel",
    "Query",
    "Row",
    "Unit",
    "lines",
    "number",
    "quantiles",
    "share",
    "stacked",
]

CLUSTER = 'cluster=~"$cluster",namespace=~"$namespace",job=~"$job"'
NODE = f'{CLUSTER},instance=~"$instance"'
RATE = "$__rate_interval"

GREEN, YELLOW, RED = "green", "orange", "red"
COLUMNS = 24


class Kind(StrEnum):
    """How a panel shows its queries, by Grafana's names."""

    LINES = "timeseries"
    NUMBER = "stat"
    TABLE = "table"


class Unit(StrEnum):
    """Grafana's names of the units that are used."""

    COUNT = "short"
    PER_S = "ops"
    SECONDS = "s"
    BYTES = "bytes"
    BYTES_PER_S = "Bps"
    SHARE = "percentunit"


@dataclass(frozen=True, slots=True)
class Query:
    """One query; `legend` names its series, with `{{label}}` for a label's value."""

    expr: str
    legend: str
    # Whether points of it may be linked to traces.
    exemplars: bool = False

    @property
    def promql(self) -> str:
        """The query with its abbreviations written out; Grafana's variables are still in it."""
        return self.expr.replace("@node", NODE).replace("@cluster", CLUSTER).replace("@rate", RATE)


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `steps` are colours from a value on, the first of them from minus infinity."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: Unit = Unit.COUNT
    kind: Kind = Kind.LINES
    width: int = 8
    height: int = 8
    steps: tuple[tuple[float, str], ...] = ()
    # The top of the scale, where that means something: 1 for a share.
    most: float | None = None
    stacked: bool = False

    def limits(self, warn: float, bad: float) -> "Panel":
        """The same panel, orange from `warn` and red from `bad` on."""
        return replace(self, steps=((0, GREEN), (warn, YELLOW), (bad, RED)))

    def at_least(self, some: float, enough: float) -> "Panel":
        """The same panel, red below `some`, orange below `enough`."""
        return replace(self, steps=((0, RED), (some, YELLOW), (enough, GREEN)))

    def wide(self, width: int) -> "Panel":
        """The same panel, `width` of 24 columns wide."""
        return replace(self, width=width)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a title, from left to right."""

    title: str
    panels: tuple[Panel, ...]

    def places(self) -> Iterator[tuple[Panel, int, int]]:
        """Each panel with its column and, from the row's top, its line."""
        column = line = height = 0
        for panel in self.panels:
            if column + panel.width > COLUMNS:
                column, line, height = 0, line + height, 0
            yield panel, column, line
            column, height = column + panel.width, max(height, panel.height)


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; `name` is its file's, too."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...] = field(default=())

    def panels(self) -> Iterator[Panel]:
        """All of them, in order."""
        for row in self.rows:
            yield from row.panels


# -- the usual panels ------------------------------------------------------------------------------------------------
def lines(title: str, description: str, *queries: tuple[str, str], unit: Unit = Unit.COUNT) -> Panel:
    """Lines over time; each query with its legend."""
    return Panel(title, description, tuple(Query(*query) for query in queries), unit)


def stacked(title: str, description: str, *queries: tuple[str, str], unit: Unit = Unit.COUNT) -> Panel:
    """Areas on top of each other: for what adds up."""
    return replace(lines(title, description, *queries, unit=unit), stacked=True)


def share(title: str, description: str, *queries: tuple[str, str]) -> Panel:
    """Lines between 0 and 1."""
    return replace(lines(title, description, *queries, unit=Unit.SHARE), most=1)


def number(title: str, description: str, *queries: tuple[str, str], unit: Unit = Unit.COUNT) -> Panel:
    """The last value, large."""
    panel = lines(title, description, *queries, unit=unit)
    return replace(panel, kind=Kind.NUMBER, width=4, height=4)


def quantiles(title: str, description: str, metric: str, *, by: str = "", select: str = "@node") -> Panel:
    """Median, 90 and 99 % of a histogram; with `by`, median and 99 % for each value of that label."""
    queries = []
    for q in ("0.5", "0.99") if by else ("0.5", "0.9", "0.99"):
        labels = f"le, {by}" if by else "le"
        expr = f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{select}}}[@rate])))"
        name = "median" if q == "0.5" else f"{float(q) * 100:g} %"
        queries.append(Query(expr, f"{{{{{by}}}}}, {name}" if by else name, exemplars=True))
    return Panel(title, description, tuple(queries), Unit.SECONDS)
