"""`aip-constellation run` and `check`: a plan from a file, on the cluster at an address.

Exit codes: 0 every task completed (`check`: the plan can be run), 1 some task did not, 2 a wrong command line, a wrong
plan, or a cluster that cannot be asked for its devices (nothing was sent), 130 cancelled.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aip_cluster.constellation.client import ConstellationClient
from aip_cluster.constellation.devices import Device, device_problems
from aip_cluster.constellation.errors import ConstellationError, PlanError
from aip_cluster.constellation.graph import ancestors
from aip_cluster.constellation.plan import Plan, load_plan
from aip_cluster.constellation.progress import printable, progress_for
from aip_cluster.constellation.records import TaskState
from aip_cluster.constellation.report import Report
from aip_cluster.constellation.runner import PlanRun

__all__ = ["main"]

COMPLETED, FAILED, USAGE, CANCELLED = 0, 1, 2, 130


class _UsageError(Exception):
    """Something on the command line or in the environment that cannot be used."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code. `argv` is without the program's name."""
    flags = _parser().parse_args(argv)
    logging.basicConfig(level=flags.log_level.upper(), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    try:
        plan = load_plan(flags.plan, values=_values(flags.set))
        if flags.command == "check":
            return asyncio.run(_check(plan, flags))
        _check_outputs(flags)
        return asyncio.run(_run(plan, flags))
    except PlanError as exc:
        for problem in exc.problems:
            print(f"aip-constellation: {printable(str(problem), 2000)}", file=sys.stderr)
        return USAGE
    except (_UsageError, ConstellationError, ValueError) as exc:
        print(f"aip-constellation: {printable(str(exc), 2000)}", file=sys.stderr)
        return USAGE
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("aip-constellation: given up; what was under way may be running still", file=sys.stderr)
        return CANCELLED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aip-constellation", description="Run a plan on the devices of an AIP cluster."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    run = commands.add_parser("run", help="run a plan; Ctrl-C cancels it, on the devices too")
    check = commands.add_parser("check", help="say what is wrong with a plan, without running anything")
    for command in (run, check):
        command.add_argument("plan", type=Path, metavar="PLAN", help="a YAML file")
        command.add_argument(
            "--server",
            metavar="URL",
            required=command is run,
            help="ws://HOST:PORT/ws of a node or a load balancer"
            + ("" if command is run else "; with it, the devices connected there are looked at too"),
        )
        command.add_argument(
            "--api-key-env", metavar="VAR", help="the variable that holds the API key (default: AIP_API_KEY, if set)"
        )
        command.add_argument(
            "--set", metavar="KEY=VALUE", action="append", default=[], help="give a variable of the plan another value"
        )
        command.add_argument(
            "--log-level", choices=["debug", "info", "warning", "error"], default="error", help="default: error"
        )
    run.add_argument("--name", help="who the cluster sees (default: the plan's name with a random end)")
    run.add_argument("--json", type=Path, metavar="FILE", help="write the report there; '-' is standard output")
    run.add_argument("--mermaid", type=Path, metavar="FILE", help="write a picture of the run there")
    return parser


def _values(given: Sequence[str]) -> Mapping[str, str]:
    values = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise _UsageError(f"--set {text}: must look like KEY=VALUE")
        values[name] = value
    return values


def _check_outputs(flags: argparse.Namespace) -> None:
    """Find out before the run, not after it, that a report cannot be written."""
    for option, path in (("json", flags.json), ("mermaid", flags.mermaid)):
        if path is not None and str(path) != "-" and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise _UsageError(f"--{option}: {path.parent} is not a folder that can be written to")


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return os.environ.get("AIP_API_KEY") or None
    if not os.environ.get(variable):
        raise _UsageError(f"--api-key-env: the variable {variable} is not set")
    return os.environ[variable]


def _client(flags: argparse.Namespace, name: str) -> ConstellationClient:
    try:
        return ConstellationClient(flags.server, name=name, api_key=_api_key(flags.api_key_env))
    except ValueError as exc:
        raise _UsageError(f"--server or --name: {exc}") from None


async def _check(plan: Plan, flags: argparse.Namespace) -> int:
    if flags.server is not None:
        async with _client(flags, f"{plan.name}-check") as client:
            devices = [Device.of(listed) for listed in await client.devices()]
        problems = device_problems(plan, devices)
        if problems:
            raise PlanError(problems)
    above = ancestors({task.id: task.depends_on for task in plan.tasks})
    free = sum(not names for names in above.values())
    print(f"{plan.name}: {len(plan.tasks)} tasks, {free} of them can start at once: nothing wrong")
    return COMPLETED


async def _run(plan: Plan, flags: argparse.Namespace) -> int:
    async with _client(flags, flags.name or f"{plan.name}-{secrets.token_hex(4)}") as client:
        progress = progress_for(plan, sys.stderr)
        run = PlanRun(client, plan, observe=progress)
        with progress.shown(), _signals(run):
            report = await run.run()
    _write(report, flags)
    _sum_up(report)
    return {"completed": COMPLETED, "cancelled": CANCELLED}.get(report.status, FAILED)


@contextlib.contextmanager
def _signals(run: PlanRun) -> Iterator[None]:
    """The first signal cancels the run, and its sessions in the cluster; a second one does not wait for that."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    seen = 0

    def on_signal() -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            print("cancelling the run; once more to give up waiting for the devices", file=sys.stderr)
            run.cancel()
        else:
            run.abandon()
            if task is not None:
                task.cancel()

    caught = []
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not on Windows, and not outside the main thread: there KeyboardInterrupt remains.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, on_signal)
            caught.append(number)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


def _write(report: Report, flags: argparse.Namespace) -> None:
    for path, text in ((flags.json, report.to_json() + "\n"), (flags.mermaid, report.to_mermaid())):
        if path is None:
            continue
        if str(path) == "-":
            print(text, end="")
            continue
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as exc:
            # The run is over: its outcome is worth more than its report.
            print(f"aip-constellation: {path}: {exc.strerror or exc}", file=sys.stderr)


def _sum_up(report: Report) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in report.counts.items() if count)
    print(f"{report.plan} {report.status} after {report.duration_s:.1f} s: {counts}", file=sys.stderr)
    for task in report.tasks:
        if task.state is not TaskState.COMPLETED:
            unsure = " (it may have run)" if task.maybe_ran else ""
            print(f"  {task.task_id} {task.state.value}{unsure}: {printable(task.error or '')}", file=sys.stderr)
    print(f"critical path: {' → '.join(report.critical_path) or 'none'}", file=sys.stderr)
