"""The stage of the gate that looks ahead: do the newest releases of what we use still pass?

The locks say what is installed; they say nothing of what an installation without them gets tomorrow. This resolves the
newest releases that both pyproject.toml admit, and where they differ from the lock runs the unit tests nearest to the
libraries on them, in an environment of its own. The gate only warns: a release of others breaks nobody's change.
"""

import subprocess
import sys
from pathlib import Path

from devtools.bootstrap import DEV, ROOT
from devtools.lock import compile_lock, pins, requested
from devtools.outcome import Exit, ScriptError, end_cleanly_on_signals, report, say

__all__ = ["changes", "main"]

FOLDER = ROOT / ".run" / "newest"
PYTHON = FOLDER / "venv" / "bin" / "python"
INSTALL_S = 180.0
TESTS_S = 120.0
# Where our code meets pydantic and orjson, websockets, uvicorn and starlette, redis-py and hiredis, prometheus_client,
# OpenTelemetry, openai and mcp.
NEAREST = (
    *("test_decode", "test_codec_roundtrip", "test_ufo_frames", "test_websocket_frames", "test_open_socket"),
    *("test_rest_shell", "test_openapi", "test_listener", "test_connection_errors", "test_cluster_route", "test_wire"),
    *("test_metrics", "test_tracing", "test_llm_endpoint", "test_servers"),
)


def main() -> int:
    """Returns 0 if the newest releases pass or are those of the lock, else a code that the gate warns of."""
    end_cleanly_on_signals()
    FOLDER.mkdir(parents=True, exist_ok=True)
    newest = FOLDER / "requirements.txt"
    try:
        compile_lock(requested(DEV), newest, "--upgrade")
        found = changes(DEV, newest)
        if not found:
            say("Skipped: the newest releases are those of requirements/dev.lock.")
            return 0
        say("Newer than requirements/dev.lock: " + ", ".join(found))
        _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(FOLDER / "venv"))
        _uv("pip", "sync", "--quiet", "--python", str(PYTHON), str(newest))
    except ScriptError as exc:
        return report("newest", exc)
    tests = sorted(str(path) for path in Path(ROOT, "tests", "unit").rglob("test_*.py") if path.stem in NEAREST)
    command = [str(PYTHON), "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *tests]
    try:
        code = subprocess.run(command, cwd=ROOT, check=False, timeout=TESTS_S).returncode
    except subprocess.TimeoutExpired:
        say(f"Not judged: the tests did not end within {TESTS_S:.0f} s.")
        return Exit.MISSING
    if code:
        say("An installation without the locks may not work: mend it, or put an upper bound into pyproject.toml.")
    return code


def changes(lock: Path, newest: Path) -> list[str]:
    """The pins of `newest` that `lock` does not have."""
    locked = {str(pin) for pin in pins(lock)}
    return [str(pin) for pin in pins(newest) if str(pin) not in locked]


def _uv(*arguments: str) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "uv", *arguments], capture_output=True, text=True, check=False, timeout=INSTALL_S
        )
    except subprocess.TimeoutExpired:
        raise ScriptError(Exit.MISSING, f"uv {arguments[0]} did not end within {INSTALL_S:.0f} s") from None
    if done.returncode:
        raise ScriptError(Exit.MISSING, f"uv {arguments[0]} failed:\n{done.stderr.rstrip()}")


if __name__ == "__main__":
    raise SystemExit(main())
