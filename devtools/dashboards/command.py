"""The command `scripts/dashboards`: writes Grafana's JSON, or says if it is up to date."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from devtools.bootstrap import ROOT
from devtools.dashboards.boards import BOARDS
from devtools.dashboards.grafana import as_json
from devtools.outcome import Exit, end_cleanly_on_signals, say

__all__ = ["DIRECTORY", "files", "main"]

FAILED = 1
DIRECTORY = ROOT / "helm" / "aip-cluster" / "dashboards"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    end_cleanly_on_signals()
    if _parse(argv).check:
        stale = [path for path, text in files().items() if not path.is_file() or path.read_text("utf-8") != text]
        stale += set(DIRECTORY.glob("*.json")) - set(files())
        for path in stale:
            say(f"not what scripts/dashboards writes: {path.relative_to(ROOT)}")
        return FAILED if stale else Exit.OK
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        say(f"written: {path.relative_to(ROOT)}")
    return Exit.OK


def files() -> dict[Path, str]:
    """The text of every file in `helm/aip-cluster/dashboards`."""
    return {DIRECTORY / f"aip-{board.name}.json": as_json(board) for board in BOARDS}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/dashboards",
        description=f"Write Grafana's dashboards to {DIRECTORY.relative_to(ROOT)} from devtools/dashboards/boards.",
        epilog=f"exit codes: {Exit.OK.value} done, {FAILED} not up to date.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing: say which files are not up to date")
    return parser.parse_args(argv)
