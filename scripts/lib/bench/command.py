"""The command `scripts/bench`: measures what is asked for, and prints, keeps and compares what came of it."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from lib.bench.errors import BenchError
from lib.bench.machine import describe
from lib.bench.processes import parse_cpus, pin, raise_open_files
from lib.bench.report import Report, table
from lib.bench.rows import ROWS, Lab, measure
from lib.outcome import Exit, ScriptError, end_cleanly_on_signals, report, say

__all__ = ["FAILED", "main"]

FAILED = 1
OPEN_FILES = 65_536
ROUNDS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    end_cleanly_on_signals()
    options = _parse(argv)
    raise_open_files(OPEN_FILES)
    pin(os.getpid(), options.generator_cpus)
    try:
        before = Report.read(options.before) if options.before else None
        results = uvloop.run(_run(options))
    except ScriptError as exc:
        return report("bench", exc)
    except BenchError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return FAILED
    text = table(results, before)
    say(f"\n{text}")
    if options.out:
        results.write(options.out / "results.json")
        (options.out / "results.md").write_text(f"{text}\n", encoding="utf-8")
        say(f"\nWritten: {options.out}/results.json, results.md")
    return Exit.OK


async def _run(options: argparse.Namespace) -> Report:
    lab = Lab(options.rounds, options.quick, options.server_cpus)
    chosen = {name: getattr(options, name) for name in ("quick", "rounds", "server_cpus", "generator_cpus")}
    results = Report(describe(), chosen)
    async for row in measure(options.rows, lab):
        results.rows.append(row)
        for figure in row.figures:
            say(f"{figure.key:<24} {figure.value.median:,.2f} {figure.unit}")
        if options.out:
            # What has been measured is kept even if the rest does not work.
            await asyncio.to_thread(results.write, options.out / "results.json")
    return results


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
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all rows if none is named")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"how often each (default: {ROUNDS}; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="seconds a row: whether it works, not how fast it is")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write results.json and results.md there")
    parser.add_argument("--before", type=Path, metavar="FILE", help="results.json of an earlier run, to compare with")
    parser.add_argument("--server-cpus", type=_cpus, default=(0,), metavar="CPUS", help="as 0-2,5 (default: 0)")
    parser.add_argument("--generator-cpus", type=_cpus, default=(1,), metavar="CPUS", help="as above (default: 1)")
    options = parser.parse_args(argv)
    unknown = set(options.rows) - {*ROWS, "all"}
    if unknown:
        parser.error(f"there is no row {', '.join(sorted(unknown))}: there are {', '.join(ROWS)}")
    if not options.rows or "all" in options.rows:
        options.rows = list(ROWS)
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    if options.rounds < 1:
        parser.error("--rounds: above 0")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    return options


def _cpus(text: str) -> tuple[int, ...]:
    try:
        return parse_cpus(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} names no processors: as 0-2,5") from None
