"""The sweeps as SVG: throughput, delivery, and what a task costs; medians with the range of the rounds around them.

matplotlib is imported where something is drawn: the generator of load does without it and its memory.
"""

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devtools.bench.sweeps import SWEEPS, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

COLOURS = {"cluster": "#0b6e99", "reference": "#888888", "python-socketio": "#c4554d"}
SIZE_INCH = (8.0, 8.5)


def draw(results: dict[str, Any], directory: Path) -> list[Path]:
    """One SVG for each sweep that there are results of; the same results give the same file."""
    if not results:
        return []
    import matplotlib as mpl  # noqa: PLC0415

    written = []
    # Ids in the file and its date would differ every time.
    with mpl.rc_context({"svg.hashsalt": "aip-cluster"}):
        for one in SWEEPS:
            if curves := results.get(one.name):
                path = directory / f"{one.name}.svg"
                _figure(one, curves).savefig(path, metadata={"Date": None})
                written.append(path)
    return written


def _figure(one: Sweep, curves: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # noqa: PLC0415

    figure = Figure(figsize=SIZE_INCH, layout="constrained")
    rate, delivery, cost = figure.subplots(3, 1, sharex=True)
    for name, curve in curves.items():
        _curve(rate, name, curve, "per_s", name, 1.0, "-")
        _curve(delivery, name, curve, "p50_us", f"{name}, p50", 1000.0, "-")
        _curve(delivery, name, curve, "p99_us", f"{name}, p99", 1000.0, "--")
        _curve(cost, name, curve, "server_us", f"{name}, nodes", 1.0, "-")
        _curve(cost, name, curve, "redis_us", f"{name}, Redis", 1.0, "--")
    rate.set_ylabel("tasks/s")
    rate.set_ylim(bottom=0, top=rate.get_ylim()[1] * 1.05)
    delivery.set_ylabel("request to device, ms")
    cost.set_ylabel("processors, µs a task")
    cost.set_xlabel(one.axis)
    points = sorted({int(x) for curve in curves.values() for x in curve})
    if points[-1] > 10 * points[0]:
        cost.set_xscale("log")
    cost.set_xticks(points, [f"{x:,}" for x in points])
    for axes in (delivery, cost):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    for axes in (rate, delivery, cost):
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(visible=True, alpha=0.3)
        # Beside the curves, not over them.
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1.0))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    return figure


def _curve(axes: "Axes", name: str, curve: dict[str, Any], what: str, label: str, unit: float, style: str) -> None:
    points = sorted(curve, key=int)
    rounds = [[sample[what] / unit for sample in curve[x]] for x in points]
    xs, colour = [int(x) for x in points], COLOURS.get(name)
    middle = [statistics.median(values) for values in rounds]
    axes.plot(xs, middle, style, color=colour, marker="o", markersize=3, label=label)
    axes.fill_between(xs, [min(v) for v in rounds], [max(v) for v in rounds], color=colour, alpha=0.15, linewidth=0)
