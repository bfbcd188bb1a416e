"""The command `scripts/rolling-restart`: does it, and prints what came of it."""

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from devtools.cluster import MAX_NODES, Cluster, Plan
from devtools.open_files import raise_open_files
from devtools.outcome import Exit, ScriptError, end_cleanly_on_signals, report, say
from devtools.rolling.restart import rolling_restart
from devtools.servers import ensure_servers

__all__ = ["FAILED", "main"]

FAILED = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    end_cleanly_on_signals()
    options = _parse(argv)
    raise_open_files()
    # Hundreds of devices say what each of them does.
    logging.basicConfig(level=logging.ERROR)
    run_dir = Path(tempfile.mkdtemp(prefix="aip-rolling-"))
    # nginx's workers are nobody, and must reach their folder.
    run_dir.chmod(0o755)
    plan = Plan(
        nodes=options.nodes, base_port=options.base_port, run_dir=run_dir, redis_url=None, demo=False, detach=False
    )
    try:
        servers = ensure_servers(apt=False)
        if servers.nginx is None:
            raise ScriptError(Exit.MISSING, "nginx is needed: without a balancer nobody could go elsewhere")
        cluster = Cluster(plan, servers, lambda: None)
        outcome = asyncio.run(rolling_restart(cluster, devices=options.devices, rate_per_s=options.rate))
    except ScriptError as exc:
        return report("rolling-restart", exc)
    say(f"\n{outcome}")
    if outcome.passed:
        shutil.rmtree(run_dir, ignore_errors=True)
        return Exit.OK
    print(f"Logs: {cluster.logs}", file=sys.stderr)
    return FAILED


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/rolling-restart",
        description="Restart every node of a cluster on this machine, one after another, under devices and steady "
        "dispatch, and say whether anything failed and how long devices were away.",
        epilog=f"exit codes: {Exit.OK.value} nothing failed or got lost, {FAILED} something did (the logs are kept), "
        f"{Exit.MISSING.value}, {Exit.PORT_IN_USE.value}, {Exit.NOT_READY.value} as of scripts/up.",
    )
    parser.add_argument("--devices", type=int, default=60, metavar="N", help="how many devices (default: 60)")
    parser.add_argument("--nodes", type=int, default=3, metavar="N", help="how many nodes (default: 3)")
    parser.add_argument("--rate", type=float, default=20.0, metavar="R", help="dispatches a second (default: 20)")
    parser.add_argument("--base-port", type=int, default=6000, metavar="P", help="as of scripts/up (default: 6000)")
    options = parser.parse_args(argv)
    if not 2 <= options.nodes <= MAX_NODES:
        parser.error(f"--nodes: from 2 to {MAX_NODES}")
    if options.devices < 1 or options.rate <= 0:
        parser.error("--devices and --rate: above 0")
    return options
