"""A container engine of our own: a dockerd with its own data, socket and mounts, which all go when it ends.

The machine's own engine, if one runs, is never used: what is built and tagged here bears the names of official images.
It changes no firewall rule and no kernel setting: published ports are served by Docker's proxy, and containers need
nothing from outside. A second run on the same machine waits for the first, since networks have fixed addresses.
"""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from devtools.bootstrap import one_at_a_time
from devtools.outcome import Exit, ScriptError, tail
from devtools.processes import spawn, wait_for_end
from devtools.servers import apt_install, search_path

__all__ = ["NO_ENGINE", "Engine", "open_files", "running_engine"]

# An exit code beside those of `Exit`: no engine can run here.
NO_ENGINE = 9
START_PATIENCE_S = 60.0
# It stops what still runs, and waits as long as each container may take.
END_PATIENCE_S = 180.0
COMMAND_PATIENCE_S = 540.0
NAME = "aip-containers"


class Engine:
    """Runs `docker` against the engine of one run."""

    def __init__(self, program: str, run_dir: Path) -> None:
        self.socket = run_dir / "docker.sock"
        self.logs = run_dir / "logs"
        self._program = program
        self._env = {
            **os.environ,
            "PATH": search_path(),
            "DOCKER_HOST": f"unix://{self.socket}",
            # Nothing of the user's: no contexts, no credentials.
            "DOCKER_CONFIG": str(run_dir / "config"),
            # Debian has no buildx.
            "DOCKER_BUILDKIT": "0",
        }

    def docker(self, *arguments: str | Path) -> str:
        """What it prints on standard output. Raises ScriptError with what it says, if it fails."""
        done = self.attempt(*arguments)
        if done.returncode:
            said = "\n".join((done.stdout + done.stderr).rstrip().splitlines()[-30:])
            raise ScriptError(Exit.NOT_READY, f"docker {' '.join(map(str, arguments[:3]))} ... failed:\n{said}")
        return done.stdout

    def attempt(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Like `docker`; a failure is an answer, too."""
        try:
            return subprocess.run(
                [self._program, *arguments],
                env=self._env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=COMMAND_PATIENCE_S,
            )
        except subprocess.TimeoutExpired as exc:
            raise ScriptError(Exit.NOT_READY, f"docker {arguments[0]} took longer than {exc.timeout:.0f} s") from None

    def import_folder(self, folder: Path, tag: str) -> None:
        """Makes an image of one layer of a folder."""
        # Devices are the engine's to make.
        archive = subprocess.Popen(["tar", "-C", folder, "--exclude=./dev/*", "-c", "."], stdout=subprocess.PIPE)
        command = [self._program, "import", "-", tag]
        done = subprocess.run(command, env=self._env, stdin=archive.stdout, capture_output=True, text=True, check=False)
        if archive.stdout is not None:
            archive.stdout.close()
        if archive.wait() or done.returncode:
            raise ScriptError(Exit.MISSING, f"the image {tag} could not be imported: {done.stderr.strip()}")


@contextmanager
def running_engine(run_dir: Path) -> Iterator[Engine]:
    """Installs Docker where it is missing, and runs an engine until the end. Raises ScriptError(NO_ENGINE)."""
    dockerd, docker = _programs()
    engine = Engine(docker, run_dir)
    engine.logs.mkdir()
    log = engine.logs / "dockerd.log"
    command = _command(dockerd, run_dir, engine.socket)
    env = {**os.environ, "PATH": search_path()}
    child = spawn("dockerd", command, log=log, env=env, cwd=run_dir, die_with_parent=signal.SIGTERM)
    try:
        deadline = time.monotonic() + START_PATIENCE_S
        while engine.attempt("version").returncode:
            if child.handle.poll() is not None or time.monotonic() > deadline:
                raise ScriptError(NO_ENGINE, f"no container engine can run here: dockerd said\n{tail(log, 5)}")
            time.sleep(0.2)
        yield engine
    finally:
        child.process.signal(signal.SIGTERM)
        wait_for_end(child.process, END_PATIENCE_S)
        child.process.signal(signal.SIGKILL)
        child.handle.wait()
        shutil.rmtree(run_dir / "data", ignore_errors=True)
        shutil.rmtree(run_dir / "exec", ignore_errors=True)


def open_files() -> int:
    """How many files a container may be allowed to open: the engine cannot give what it has not got."""
    return min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _programs() -> tuple[str, str]:
    if os.geteuid() != 0:
        raise ScriptError(NO_ENGINE, "no container engine can run here: dockerd needs root")
    with one_at_a_time():
        for program, package in (("dockerd", "docker.io"), ("docker", "docker-cli")):
            if shutil.which(program, path=search_path()) is None:
                apt_install(package)
    found = [shutil.which(program, path=search_path()) for program in ("dockerd", "docker")]
    if found[0] is None or found[1] is None:
        raise ScriptError(NO_ENGINE, "no container engine can run here: Docker is missing, and apt has no docker.io")
    return found[0], found[1]


def _command(dockerd: str, run_dir: Path, socket: Path) -> Sequence[str]:
    return [
        # Others may be at work on this machine. Whatever it mounts is seen by it alone, and goes with it.
        *("nice", "-n", "5", "unshare", "--mount", dockerd),
        *("--host", f"unix://{socket}", "--pidfile", str(run_dir / "dockerd.pid")),
        *("--data-root", str(run_dir / "data"), "--exec-root", str(run_dir / "exec")),
        # A containerd of the machine may be shared: by its name nothing in it is.
        *("--containerd-namespace", NAME, "--containerd-plugins-namespace", f"{NAME}-plugins"),
        *("--bridge=none", "--iptables=false", "--ip-masq=false", "--ip-forward=false"),
    ]
