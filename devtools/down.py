"""The command `scripts/down`: ends what `scripts/up` left running, and nothing else."""

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from devtools.bootstrap import ROOT
from devtools.cluster import CLUSTER_JSON
from devtools.outcome import Exit, say
from devtools.processes import forget, recorded, stop, wait_for_end

__all__ = ["main"]

# `up` in the foreground stops its own cluster, one kind of process after the other.
SUPERVISOR_PATIENCE_S = 90.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, 0 also when there was nothing to end."""
    parser = argparse.ArgumentParser(
        prog="scripts/down",
        description="End the cluster that scripts/up runs. Only processes that it started are touched: a pid that "
        "belongs to another program by now is left alone. Nothing to end is no error.",
    )
    parser.add_argument("--run-dir", type=Path, default=ROOT / ".run", metavar="DIR", help="default: .run")
    run_dir: Path = parser.parse_args(argv).run_dir.resolve()
    running = recorded(run_dir)
    if not running:
        say("No cluster is running.")
    for process in running:
        if process.kind == "up":
            process.signal(signal.SIGTERM)
            wait_for_end(process, SUPERVISOR_PATIENCE_S)
    killed = stop([process for process in running if process.kind != "up"])
    for name in killed:
        say(f"{name} did not end and was killed.")
    if running:
        say("The cluster is down.")
    (run_dir / CLUSTER_JSON).unlink(missing_ok=True)
    forget(run_dir)
    return Exit.OK
