"""The command `scripts/bench`: measures what is asked for, and prints, keeps and compares what came of it."""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from devtools.bench.document import write_document
from devtools.bench.errors import BenchError
from devtools.bench.machine import describe
from devtools.bench.plots import draw
from devtools.bench.processes import parse_cpus, pin
from devtools.bench.report import Report, merged, table
from devtools.bench.rows import ROWS, Contest, Lab, measure
from devtools.bench.sweeps import SWEEPS, sweep
from devtools.bootstrap import ROOT
from devtools.open_files import raise_open_files
from devtools.outcome import Exit, ScriptError, end_cleanly_on_signals, report, say

__all__ = ["FAILED", "main"]

FAILED = 1
ROUNDS = 3
PLOTS = "plots"
RESULTS = "results.json"
DOCUMENT = ROOT / "docs" / "PERFORMANCE.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    end_cleanly_on_signals()
    options = _parse(argv)
    raise_open_files()
    failed: list[str] = []
    try:
        before = Report.read(options.before) if options.before else None
        results = _recorded(options) if options.recorded else _measured(options, failed)
    except ScriptError as exc:
        return report("bench", exc)
    text = table(results, before)
    say(f"\n{text}")
    if results.quick:
        say("\nQuick: it works. Sizes were not those of the table, and the figures say nothing.")
        if options.document:
            print("bench: what --quick measures goes into no document", file=sys.stderr)
            return FAILED
    written = []
    if options.out:
        results.write(options.out / RESULTS)
        (options.out / "results.md").write_text(f"{text}\n", encoding="utf-8")
        written += [options.out / RESULTS, options.out / "results.md", *draw(results.plots, options.out)]
    if options.document and not failed:
        written += write_document(results, before, DOCUMENT)
    if written:
        say("\nWritten: " + ", ".join(str(path) for path in written))
    if failed:
        say(f"\nNot measured: {', '.join(failed)}. Ask for them alone: with the same --out they are added.")
    return FAILED if failed else Exit.OK


def _recorded(options: argparse.Namespace) -> Report:
    return merged([Report.read(path) for path in options.recorded])


def _measured(options: argparse.Namespace, failed: list[str]) -> Report:
    """With what `--out` holds already; `failed` gets the names of what did not do its work."""
    kept = options.out / RESULTS if options.out else None
    earlier = [Report.read(kept)] if kept and kept.exists() else []
    if any(report.quick is not options.quick for report in earlier):
        raise ScriptError(Exit.USAGE, f"{kept} was measured {'without' if options.quick else 'with'} --quick")
    pin(os.getpid(), options.generator_cpus)
    return uvloop.run(_measure(options, earlier, failed))


async def _measure(options: argparse.Namespace, earlier: Sequence[Report], failed: list[str]) -> Report:
    lab = Lab(options.rounds, options.quick, options.server_cpus)
    chosen = {name: getattr(options, name) for name in ("quick", "rounds", "server_cpus", "generator_cpus")}
    results = Report(describe(), chosen)
    contest = Contest(lab, set(options.rows))
    for name in (name for name in ROWS if name in options.rows):
        with _noting(name, failed):
            row = await measure(name, lab, contest)
            results.add(row)
            for figure in row.figures:
                say(f"{figure.key:<24} {figure.value.median:,.2f} {figure.unit}")
            await _keep(merged([*earlier, results]), options.out)
    for one in SWEEPS if PLOTS in options.rows else ():
        with _noting(one.name, failed):
            results.plots[one.name] = await sweep(one, lab)
            say(f"{one.name:<24} measured")
            await _keep(merged([*earlier, results]), options.out)
    return merged([*earlier, results])


@contextlib.contextmanager
def _noting(name: str, failed: list[str]) -> Iterator[None]:
    """What was measured did not do its work: that is said, and the rest is measured all the same."""
    try:
        yield
    except BenchError as exc:
        print(f"bench: {name}: {exc}", file=sys.stderr)
        failed.append(name)


async def _keep(results: Report, directory: Path | None) -> None:
    """What has been measured is there even if the rest is never reached."""
    if directory:
        await asyncio.to_thread(results.write, directory / RESULTS)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure the cluster beside a hand-written node, python-socketio and bare Starlette, in turn, on "
        "this machine. Servers share the processors of --server-cpus, this program keeps those of --generator-cpus; "
        "Redis goes where the kernel puts it. Quotients of one run mean something; absolute figures are this "
        "machine's.",
        epilog=f"exit codes: {Exit.OK.value} measured, {FAILED} something that was measured did not do its work, "
        f"{Exit.MISSING.value}, {Exit.NOT_READY.value} as of scripts/up.",
    )
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all (the default): each of them; {PLOTS}"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"how often each; what hardly varies or takes long, a third of that (default: {ROUNDS}; --quick: 1)",
    )
    parser.add_argument("--quick", action="store_true", help="seconds a row: whether it works, not how fast it is")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write results.json, results.md and plots there; a results.json that is there is added to",
    )
    parser.add_argument("--before", type=Path, metavar="FILE", help="results.json of an earlier run, to compare with")
    parser.add_argument(
        "--from", dest="recorded", type=Path, nargs="+", metavar="FILE", help="measure nothing: take these results.json"
    )
    parser.add_argument("--document", action="store_true", help=f"write {DOCUMENT.relative_to(ROOT)} and its plots")
    parser.add_argument("--server-cpus", type=_cpus, default=(0,), metavar="CPUS", help="as 0-2,5 (default: 0)")
    parser.add_argument("--generator-cpus", type=_cpus, default=(1,), metavar="CPUS", help="as above (default: 1)")
    options = parser.parse_args(argv)
    unknown = set(options.rows) - {*ROWS, PLOTS, "all"}
    if unknown:
        parser.error(f"there is no row {', '.join(sorted(unknown))}: there are {', '.join((*ROWS, PLOTS))}")
    if not options.rows or "all" in options.rows:
        options.rows += ROWS
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    if options.rounds < 1:
        parser.error("--rounds: above 0")
    if options.document and options.quick:
        parser.error("--document: what --quick measures goes into no document")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    return options


def _cpus(text: str) -> tuple[int, ...]:
    try:
        return parse_cpus(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} names no processors: as 0-2,5") from None
