"""A dashboard as SVG, laid out as Grafana lays it out, from what Prometheus answered over a run.

Not Grafana's own picture: the same panels, queries and places, drawn by matplotlib.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from devtools.dashboards.answers import Asked
from devtools.dashboards.figures import legend, most_of_them, value
from devtools.dashboards.model import COLUMNS, Dashboard, Kind, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

INCH_PER_COLUMN, INCH_PER_LINE = 0.62, 0.31
TITLE_LINES = 1.4
# Between panels, for titles above and for ticks and legends below, in columns and lines.
LEFT, RIGHT, ABOVE, BELOW = 1.05, 0.25, 1.0, 2.1
SERIES = 6
COLOURS = {"green": "#3d9970", "orange": "#e08e0b", "red": "#c4342d"}


def draw(dashboard: Dashboard, answers: Sequence[Asked], path: Path) -> None:
    """Writes the picture; the same answers give the same file."""
    tops: list[float] = []
    lines = 1.5
    for row in dashboard.rows:
        tops.append(lines)
        lines += TITLE_LINES + max(line + panel.height for panel, _, line in row.places())
    with mpl.rc_context({"svg.hashsalt": dashboard.name, "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(COLUMNS * INCH_PER_COLUMN, lines * INCH_PER_LINE))
        figure.text(0.01, 1 - 0.9 / lines, f"AIP Cluster / {dashboard.title}", fontsize=13, fontweight="bold")
        for row, top in zip(dashboard.rows, tops, strict=True):
            figure.text(0.01, 1 - (top + 0.9) / lines, row.title, fontsize=10, color="#555555")
            for panel, column, line in row.places():
                first = top + TITLE_LINES + line
                place = (
                    (column + LEFT) / COLUMNS,
                    1 - (first + panel.height - BELOW) / lines,
                    (panel.width - LEFT - RIGHT) / COLUMNS,
                    (panel.height - ABOVE - BELOW) / lines,
                )
                # Panels of one dashboard have different titles.
                _panel(figure.add_axes(place), panel, [asked for asked in answers if asked.panel is panel])
        figure.savefig(path, metadata={"Date": None})


def _panel(axes: "Axes", panel: Panel, answers: list[Asked]) -> None:
    axes.set_title(panel.title, fontsize=8, loc="left")
    if panel.kind is Kind.LINES:
        _curves(axes, panel, answers)
        return
    axes.axis("off")
    if panel.kind is Kind.NUMBER:
        (asked,) = answers
        last = asked.series[0].last if asked.series else math.nan
        axes.text(0.5, 0.2, value(last, panel.unit), fontsize=17, ha="center", color=_colour(panel, last))
        return
    _table(axes, answers)


def _curves(axes: "Axes", panel: Panel, answers: list[Asked]) -> None:
    named = [(legend(asked, one), one) for asked in answers for one in most_of_them(asked.series, SERIES)]
    start = min((one.points[0][0] for _, one in named), default=0.0)
    if panel.stacked:
        times = sorted({at for _, one in named for at, _ in one.points})
        heights = [[dict(one.points).get(at, 0.0) for at in times] for _, one in named]
        axes.stackplot([at - start for at in times], heights, labels=[name for name, _ in named], alpha=0.6)
    else:
        for name, one in named:
            axes.plot([at - start for at, _ in one.points], [number for _, number in one.points], lw=1, label=name)
        highest = axes.get_ylim()[1]
        for at, colour in panel.steps[1:]:
            if at <= highest:
                axes.axhline(at, color=COLOURS[colour], lw=0.8, ls="--")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: value(number, panel.unit)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g} s"))
    axes.tick_params(labelsize=6)
    axes.grid(visible=True, alpha=0.25)
    axes.legend(fontsize=5.5, ncols=4, loc="upper left", bbox_to_anchor=(-0.02, -0.16), frameon=False)


def _table(axes: "Axes", answers: list[Asked]) -> None:
    instances = sorted({series.labels["instance"] for asked in answers for series in asked.series})
    rows = [
        [name, *(_cell(asked, name) for asked in answers)]  # one query a column
        for name in instances
    ]
    table = axes.table(rows, colLabels=["instance", *(asked.query.legend for asked in answers)], loc="upper left")
    table.auto_set_font_size(False)
    table.set_fontsize(7)


def _cell(asked: Asked, instance: str) -> str:
    return ", ".join(value(s.last, asked.panel.unit) for s in asked.series if s.labels["instance"] == instance)


def _colour(panel: Panel, number: float) -> str:
    colour = "#333333"
    for i, (at, name) in enumerate(panel.steps):
        if i == 0 or number >= at:
            colour = COLOURS[name]
    return colour
