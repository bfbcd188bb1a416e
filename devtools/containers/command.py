"""The command `scripts/containers`: builds, starts, checks, and leaves nothing."""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from devtools.containers.compose import Compose
from devtools.containers.engine import NO_ENGINE, Engine, running_engine
from devtools.containers.images import NODE, build_node, cache_lock, make_stand_ins
from devtools.containers.tour import Tour, start_device
from devtools.outcome import Exit, ScriptError, end_cleanly_on_signals, report, say
from devtools.processes import stop

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    end_cleanly_on_signals()
    parser = argparse.ArgumentParser(
        prog="scripts/containers",
        description="Build the image, start compose.yaml without Grafana, give a device tasks through its nginx, stop "
        "one node's container and kill another's, and say whether all that they promise holds. It needs root and "
        "Debian's packages, no registry: images of Redis, nginx, Prometheus and Python are made of packages, and kept "
        "under XDG_CACHE_HOME. It runs an engine of its own, and leaves neither that nor a container behind.",
        epilog=f"exit codes: {Exit.OK.value} all of it holds, {Exit.MISSING.value} the images of others cannot be "
        f"made, {Exit.NOT_READY.value} the image or the cluster did not come up, {Exit.DEMO_FAILED.value} something "
        f"that was promised does not hold, {Exit.LOST.value} something was left behind, {NO_ENGINE} no container "
        "engine can run here. After a failure the logs are kept.",
    )
    parser.add_argument("--fresh", action="store_true", help="make the images of others anew, of today's packages")
    options = parser.parse_args(argv)
    run_dir = Path(tempfile.mkdtemp(prefix="aip-containers-")).resolve()
    code: int = Exit.NOT_READY
    try:
        with cache_lock() as cache, running_engine(run_dir) as engine:
            _check(engine, cache, run_dir, fresh=options.fresh)
        _no_mounts(run_dir)
        say("All of it holds, and nothing is left.")
        code = Exit.OK
    except ScriptError as exc:
        code = report("containers", exc)
    finally:
        # After a signal, too.
        _clear(run_dir, keep_logs=code not in (Exit.OK, NO_ENGINE))
    return code


def _check(engine: Engine, cache: Path, run_dir: Path, *, fresh: bool) -> None:
    _timed("Images of Debian's packages", lambda: make_stand_ins(engine, cache, run_dir, fresh=fresh))
    _timed("The image, from the Dockerfile", lambda: build_node(engine))
    megabytes = int(engine.docker("image", "inspect", "--format", "{{.Size}}", NODE)) / 1e6
    say(f"    {NODE}: {megabytes:.0f} MB")
    compose = Compose(engine)
    try:
        _timed("compose up", compose.up)
        device = start_device(compose, run_dir)
        try:
            _timed("The tour", Tour(compose, device).run)
        finally:
            stop([device.process])
    finally:
        compose.keep_logs(engine.logs)
        _timed("compose down", compose.down)
    compose.leftovers()


def _timed(what: str, do: Callable[[], None]) -> None:
    say(f"{what} ...")
    began = time.monotonic()
    do()
    say(f"    {time.monotonic() - began:.1f} s")


def _clear(run_dir: Path, *, keep_logs: bool) -> None:
    for path in run_dir.iterdir():
        if path.name != "logs" or not keep_logs:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if keep_logs:
        print(f"Logs: {run_dir / 'logs'}", file=sys.stderr)
    else:
        run_dir.rmdir()


def _no_mounts(run_dir: Path) -> None:
    """Raises ScriptError if anything of the run is still mounted."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    if left := [mount for mount in mounts if str(run_dir) in mount]:
        raise ScriptError(Exit.LOST, f"still mounted: {left}")
