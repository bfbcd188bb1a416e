"""The command `scripts/dashboards`: writes Grafana's JSON, says if it is up to date, and shows a real run on it."""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from devtools.bench.errors import BenchError
from devtools.bootstrap import ROOT
from devtools.dashboards.answers import Asked, ask_everything
from devtools.dashboards.boards import BOARDS
from devtools.dashboards.document import PICTURES, document
from devtools.dashboards.grafana import as_json
from devtools.dashboards.lab import Phase, observed
from devtools.outcome import Exit, ScriptError, end_cleanly_on_signals, report, say

__all__ = ["DIRECTORY", "files", "main"]

FAILED = 1
DIRECTORY = ROOT / "helm" / "aip-cluster" / "dashboards"
DOCUMENT = ROOT / "docs" / "DASHBOARDS.md"
HOW = """\
Two nodes on one machine with a Redis, {devices} devices that come in three groups and answer at once, dispatches over
REST ({pace}), beside them dispatches to a device that does not exist
and tasks that a scripted model plans; a Prometheus that scrapes and evaluates every second. The machine had other work,
too: how fast the cluster is, `scripts/bench` tells. In the queries `@node` and `@cluster` stand for the labels that the
variables choose, `@rate` for the window."""
RUN = (Phase(20, 20, devices=40), Phase(80, 25, devices=20), Phase(160, 15, devices=60), Phase(40, 20))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    end_cleanly_on_signals()
    options = _parse(argv)
    if options.check:
        stale = [path for path, text in files().items() if not path.is_file() or path.read_text("utf-8") != text]
        stale += set(DIRECTORY.glob("*.json")) - set(files())
        for path in stale:
            say(f"not what scripts/dashboards writes: {path.relative_to(ROOT)}")
        return FAILED if stale else Exit.OK
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        say(f"written: {path.relative_to(ROOT)}")
    return _picture() if options.picture else Exit.OK


def files() -> dict[Path, str]:
    """The text of every file in `helm/aip-cluster/dashboards`."""
    return {DIRECTORY / f"aip-{board.name}.json": as_json(board) for board in BOARDS}


def _picture() -> int:
    """Run a cluster, draw what the dashboards show of it, and write the document."""
    from devtools.dashboards.pictures import draw  # noqa: PLC0415 - matplotlib, for this alone

    try:
        now, over_time = asyncio.run(_run())
    except ScriptError as exc:
        return report("dashboards", exc)
    except BenchError as exc:
        return report("dashboards", ScriptError(FAILED, str(exc)))
    for complaint in filter(None, (asked.complaint for asked in now)):
        say(complaint)
    pictures = DOCUMENT.parent / "pictures"
    pictures.mkdir(exist_ok=True)
    for board in BOARDS:
        if board.name in PICTURES:
            path = pictures / f"dashboard-{board.name}.svg"
            draw(board, [asked for asked in over_time if asked.dashboard is board], path)
            say(f"written: {path.relative_to(ROOT)}")
    pace = ", ".join(f"{phase.rate_per_s:g}/s for {phase.seconds:g} s" for phase in RUN)
    how = HOW.format(devices=sum(phase.devices for phase in RUN), pace=pace)
    DOCUMENT.write_text(document(now, how), encoding="utf-8")
    say(f"written: {DOCUMENT.relative_to(ROOT)}: {len(now)} queries")
    return FAILED if any(asked.complaint for asked in now) else Exit.OK


async def _run() -> tuple[list[Asked], list[Asked]]:
    say(f"A cluster runs for {sum(phase.seconds for phase in RUN):g} s ...")
    with tempfile.TemporaryDirectory(prefix="aip-dashboards-") as directory:
        async with observed(Path(directory), RUN) as run:
            now = list(ask_everything(run.prometheus, run.until))
            return now, list(ask_everything(run.prometheus, run.until, since=run.since))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/dashboards",
        description=f"Write Grafana's dashboards to {DIRECTORY.relative_to(ROOT)} from devtools/dashboards/boards.",
        epilog=f"exit codes: {Exit.OK.value} done, {FAILED} not up to date, or a query without an answer, "
        f"{Exit.MISSING.value}, {Exit.NOT_READY.value} as of scripts/up.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="write nothing: say which files are not up to date")
    what.add_argument(
        "--picture",
        action="store_true",
        help="also run a cluster under load with a Prometheus, and write docs/DASHBOARDS.md and docs/pictures from it",
    )
    return parser.parse_args(argv)
