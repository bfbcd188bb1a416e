"""`docs/PERFORMANCE.md`, from results alone: no figure in it was typed by a person.

What stands below the line `KEPT` in the file that is there is kept as it is: that part is for people.
"""

from collections.abc import Mapping
from pathlib import Path

from devtools.bench.plots import draw
from devtools.bench.report import Report, number, table
from devtools.bench.rows import Row
from devtools.bench.sweeps import SWEEPS

__all__ = ["KEPT", "performance", "write_document", "written_by_hand"]

KEPT = "<!-- Written by people from here on: it is kept when the part above is written anew. -->"
PICTURES = "performance"
INTRODUCTION = """# Performance

Written by `scripts/bench` from measurements; repeat them with

```console
$ scripts/bench all plots --rounds 5 --out .run/bench --document      # twenty minutes on a quiet machine
$ scripts/bench dispatch latency --out .run/bench                     # some of the rows; what is there is kept
$ scripts/bench --quick                                               # whether it works; the figures mean nothing
$ scripts/bench --out .run/after --before .run/bench/results.json     # a column more: before
```

The cluster is measured beside others in the same run, in turn: a *reference*
(`devtools/bench/contestants/reference.py`), two hand-written nodes that look a device up, publish the task and keep
nothing; *python-socketio* with its Redis manager; and Starlette alone. They do less: the cluster stores each task,
delivers it durably, runs it to its end and gives its result to whoever asks. **Quotients of one run are what counts**;
absolute figures are those of one machine on one day. Figures are medians over the rounds, with the lowest and the
highest in parentheses; what hardly varies or takes long (memory, storage, idle, listing, the plots) is measured in one
round of three.
"""


def write_document(report: Report, before: Report | None, path: Path) -> list[Path]:
    """Write the document and its pictures beside it; returns the files."""
    pictures = path.parent / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = draw(report.plots, pictures)
    kept = written_by_hand(path)
    path.write_text(f"{performance(report, before)}\n{KEPT}\n{kept}", encoding="utf-8")
    return [path, *drawn]


def written_by_hand(path: Path) -> str:
    """What stands below the line in the file that is there; nothing if there is none."""
    try:
        return path.read_text(encoding="utf-8").partition(f"{KEPT}\n")[2]
    except FileNotFoundError:
        return ""


def performance(report: Report, before: Report | None = None) -> str:
    """The document in Markdown, but for what people wrote."""
    parts = [INTRODUCTION, "## The table\n", table(report, before), "", "## Measured on\n", _machine(report)]
    parts += ["", "## How, row by row\n", *(_how(row) for row in report.rows)]
    parts += ["", *_commands(report), *_storage(report), *_plots(report)]
    return "\n".join(parts)


def _machine(report: Report) -> str:
    facts = {**report.machine, **{name.replace("_", " "): value for name, value in report.options.items()}}
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {_plain(value)} |" for name, value in facts.items())])


def _plain(value: object) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)


def _how(row: Row) -> str:
    rounds = max((one.value.rounds for one in row.figures), default=0)
    return f"- **{row.name}** ({_times(rounds)}{_of(row)}): {row.how}."


def _times(rounds: int) -> str:
    return f"{rounds} round{'' if rounds == 1 else 's'}"


def _of(row: Row) -> str:
    """Which run it was."""
    return f", {row.when} at {row.commit}" if row.when else ""


def _row(report: Report, name: str) -> Row | None:
    return next((row for row in report.rows if row.name == name), None)


def _commands(report: Report) -> list[str]:
    row = _row(report, "commands")
    if row is None:
        return []
    sent: Mapping[str, float] = row.details["sent_per_task"]
    keys: Mapping[str, float] = row.details["by_key_per_task"]
    lines = ["## What a task asks of Redis\n", "| sent (a script by its name) | a task |", "|---|---|"]
    lines += [f"| `{name}` | {number(n)} |" for name, n in sent.items() if n >= 0.01]
    spent: Mapping[str, float] = row.details.get("us_by_key_per_task", {})
    whole = sum(spent.values()) or 1.0
    lines += ["", "| key, with what scripts do to it | commands a task | of Redis's time |", "|---|---|---|"]
    for name, n in keys.items():
        if n >= 0.01:
            lines.append(f"| `{name}` | {number(n)} | {spent.get(name, 0.0) / whole:.1%} |")
    return [*lines, ""]


def _storage(report: Report) -> list[str]:
    row = _row(report, "storage")
    if row is None:
        return []
    kinds: Mapping[str, Mapping[str, int]] = row.details["by_kind"]
    lines = ["## What is in Redis afterwards\n", "| key | how many | bytes each |", "|---|---|---|"]
    lines += [f"| `{name}` | {k['keys']:,} | {number(k['bytes'] / k['keys'])} |" for name, k in kinds.items()]
    return [*lines, ""]


def _plots(report: Report) -> list[str]:
    lines = []
    for one in SWEEPS:
        if one.name in report.plots:
            curves: Mapping[str, Mapping[str, list[object]]] = report.plots[one.name]
            rounds = max(len(samples) for curve in curves.values() for samples in curve.values())
            lines += [f"## Against {one.axis}\n", f"{one.text} ({_times(rounds)}).\n"]
            lines += [f"![{one.axis}]({PICTURES}/{one.name}.svg)", ""]
    return lines
