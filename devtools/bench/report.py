"""What was measured, as JSON to keep and as a Markdown table to read; with what was measured before, if there is some.

The JSON has every round. A file of another format is refused: its figures may mean something else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from devtools.bench.rows import ROWS, Figure, Row
from devtools.bench.stats import Spread
from devtools.outcome import Exit, ScriptError

__all__ = ["Report", "merged", "number", "table"]

FORMAT = 1


@dataclass
class Report:
    """One run of `scripts/bench`."""

    machine: Mapping[str, object]
    options: Mapping[str, object]
    rows: list[Row] = field(default_factory=list)
    plots: dict[str, Any] = field(default_factory=dict)

    @property
    def quick(self) -> bool:
        """Whether sizes were so small that the figures say nothing."""
        return bool(self.options.get("quick"))

    @property
    def figures(self) -> dict[str, Figure]:
        """All figures, by key."""
        return {figure.key: figure for row in self.rows for figure in row.figures}

    def add(self, row: Row) -> None:
        """A row of this run."""
        self.rows.append(replace(row, when=str(self.machine.get("when")), commit=str(self.machine.get("commit"))))

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        rows = [{**vars(row), "figures": [figure.as_json() for figure in row.figures]} for row in self.rows]
        content = {"format": FORMAT, "machine": self.machine, "options": self.options, "rows": rows}
        # Whoever is stopped while writing leaves what was there before.
        new = path.with_suffix(".new")
        new.write_text(json.dumps(content | {"plots": self.plots}, indent=1) + "\n", encoding="utf-8")
        new.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Report":
        """What `write` wrote. Raises ScriptError."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ScriptError(Exit.USAGE, f"{path} has format {content['format']}, not {FORMAT}")
            rows = [Row(**{**r, "figures": [Figure.from_json(f) for f in r["figures"]]}) for r in content["rows"]]
            return cls(content["machine"], content["options"], rows, content["plots"])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ScriptError(Exit.USAGE, f"{path} holds no results of scripts/bench: {exc!r}") from None


def merged(reports: Sequence[Report]) -> Report:
    """Several runs as one: of a row that was measured more than once, the last counts; so do machine and options.

    Quick if one of them was.
    """
    found = {row.name: row for report in reports for row in report.rows}
    rows = [found[name] for name in ROWS if name in found]
    plots = {name: curves for report in reports for name, curves in report.plots.items()}
    last = reports[-1]
    options = {**last.options, "quick": any(report.quick for report in reports)}
    return Report(last.machine, options, rows, plots)


def table(report: Report, before: Report | None = None) -> str:
    """The table in Markdown: before (if given), after, and what was measured beside it."""
    earlier = before.figures if before else {}
    head = ["what", "floor", "aim", *(["before"] if before else []), "after" if before else "measured", "beside it"]
    lines = [_line(head), _line(["---"] * len(head))]
    for one in report.figures.values():
        cells = [one.what, _goal(one.floor, one.unit), _goal(one.aim, one.unit)]
        if before:
            cells.append(_value(earlier[one.key]) if one.key in earlier else "")
        beside = "; ".join(f"{name}: {number(values.median)}" for name, values in one.beside.items())
        verdict = "" if report.quick else _verdict(one)
        lines.append(_line([*cells, f"{_value(one)}{verdict}", beside]))
    return "\n".join(lines)


def number(value: float) -> str:
    """Three digits that count, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def _value(one: Figure) -> str:
    unit = f" {one.unit}" if one.unit else ""
    return f"{number(one.value.median)}{unit}{_range(one.value)}"


def _range(values: Spread) -> str:
    return f" ({number(values.low)} to {number(values.high)})" if values.rounds > 1 else ""


def _verdict(one: Figure) -> str:
    if one.floor is None or one.aim is None:
        return ""
    sign = 1 if one.better == "higher" else -1
    if sign * one.value.median >= sign * one.aim:
        return ", aim reached"
    return ", floor reached" if sign * one.value.median >= sign * one.floor else ", short of the floor"


def _goal(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:g}{' ' + unit if unit else ''}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
