"""The command `scripts/chaos`: draws a schedule, runs it, prints what it came to; the exit code says if it held."""

import argparse
import asyncio
import shutil
import signal
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path

from devtools.chaos import schedule
from devtools.chaos.plan import Plan
from devtools.chaos.report import as_json, as_markdown, explain
from devtools.chaos.run import CONSTELLATIONS, Result, run
from devtools.open_files import raise_open_files
from devtools.outcome import Exit, ScriptError, end_cleanly_on_signals, report, say
from devtools.topologies import KINDS, TopologyError

__all__ = ["VIOLATED", "main"]

VIOLATED = 8
INTERRUPTED = 130
EPILOG = f"""
The run directory (logs of every process, over all its lives) is kept when something was violated, or with --keep.

exit codes: {Exit.OK.value} no violation, {Exit.USAGE.value} wrong command line, {Exit.MISSING.value} something is \
missing, {Exit.NOT_READY.value} the cluster did not come up
or could not be mended, {VIOLATED} an invariant was violated.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    end_cleanly_on_signals()
    options = _parse(argv)
    raise_open_files()
    run_dir = Path(options.run_dir or tempfile.mkdtemp(prefix="aip-chaos-"))
    # nginx's workers are nobody, and must reach their folder.
    run_dir.chmod(0o755)
    plan = Plan(
        seconds=options.seconds,
        seed=options.seed,
        nodes=options.nodes,
        devices=options.devices,
        redis=options.redis,
        run_dir=run_dir.resolve(),
        dispatches_per_s=options.rate,
        min_replicas=options.min_replicas,
    )
    faults = schedule.load(options.schedule.read_text("utf-8")) if options.schedule else _drawn(plan)
    say(f"Seed {plan.seed}: {len(faults)} faults in {plan.seconds:g} s. Files are in {plan.run_dir}.")
    for fault in faults:
        say(f"  {fault}")
    try:
        result = asyncio.run(_until_signal(run(plan, faults)))
    except asyncio.CancelledError:
        say("Stopped by a signal: nothing was judged.")
        return INTERRUPTED
    except ScriptError as exc:
        return report("chaos", exc)
    except (TopologyError, TimeoutError) as exc:
        return report("chaos", ScriptError(Exit.NOT_READY, f"{type(exc).__name__}: {exc}"))
    say(explain(result))
    say("\n" + as_markdown(result))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        name = f"chaos-{plan.redis}-{plan.seed}"
        (options.out / f"{name}.md").write_text(as_markdown(result), encoding="utf-8")
        (options.out / f"{name}.json").write_text(as_json(result), encoding="utf-8")
        (options.out / f"{name}.schedule.json").write_text(schedule.dump(faults), encoding="utf-8")
        (options.out / f"{name}.violations.txt").write_text(explain(result), encoding="utf-8")
    violated = bool(result.verdict.violations)
    if not violated and not options.keep and not options.run_dir:
        shutil.rmtree(plan.run_dir, ignore_errors=True)
    return VIOLATED if violated else Exit.OK


async def _until_signal(work: Coroutine[None, None, Result]) -> Result:
    """The result of `work`; a signal cancels it, so that whatever it started is ended."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def _drawn(plan: Plan) -> list[schedule.Fault]:
    return schedule.draw(plan, CONSTELLATIONS)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Use a real cluster while its processes are killed, frozen, cut and restarted, and check what "
        "must be true afterwards.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="of faults and load (default: 60)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what is drawn, and when (default: 1)")
    parser.add_argument("--nodes", type=int, default=3, metavar="N", help="how many nodes (default: 3)")
    parser.add_argument("--devices", type=int, default=12, metavar="N", help="how many devices (default: 12)")
    parser.add_argument("--redis", choices=KINDS, default="sentinel", help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=15.0, metavar="R", help="dispatches a second (default: 15)")
    parser.add_argument(
        "--min-replicas", type=int, default=0, metavar="N", help="the nodes' setting of that name (default: 0)"
    )
    parser.add_argument("--schedule", type=Path, metavar="FILE", help="replay these faults instead of drawing some")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write summary, JSON, schedule and violations there")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="where everything keeps its files; kept")
    parser.add_argument("--keep", action="store_true", help="keep the run directory")
    options = parser.parse_args(argv)
    if options.nodes < 2:
        parser.error("--nodes: at least 2, of which one is always left alone")
    if options.devices < 4:
        parser.error("--devices: at least 4, some of each kind")
    if options.seconds < 10:
        parser.error("--seconds: at least 10")
    if options.run_dir:
        options.run_dir.mkdir(parents=True, exist_ok=True)
    return options
