"""`scripts/up` and `scripts/down` as a person uses them: real Redis, nodes, nginx and device on free ports."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from devtools.topologies import free_ports, is_free
from tests.integration.harness.nginx import nginx_binary
from tests.support.redis_server import require_redis

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
# The ports that `up` takes, as offsets from its base port: nginx, two nodes, Redis.
OFFSETS = (0, 1, 2, 100)
PATIENCE_S = 120.0


@pytest.fixture(scope="module", autouse=True)
def servers() -> None:
    """Skips where Redis or nginx is missing; where servers are required, fails."""
    require_redis()
    nginx_binary()


@pytest.fixture
def base_port() -> int:
    """A base port whose ports are all free, and nobody else's."""
    return free_ports(OFFSETS)


class Scripts:
    """Runs the scripts with one run directory and one base port."""

    def __init__(self, run_dir: Path, base_port: int) -> None:
        self.run_dir = run_dir
        self.up_command = [str(ROOT / "scripts" / "up"), "--no-apt", "--nodes", "2", "--run-dir", str(run_dir)]
        self.up_command += ["--base-port", str(base_port)]
        self.down_command = [str(ROOT / "scripts" / "down"), "--run-dir", str(run_dir)]

    def up(self, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._run([*self.up_command, *options], variables)

    def down(self) -> subprocess.CompletedProcess[str]:
        return self._run(self.down_command, {})

    def cluster(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.run_dir / "cluster.json").read_text())
        return content

    @staticmethod
    def _run(command: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **variables}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=PATIENCE_S)


@pytest.fixture
def scripts(tmp_path: Path, base_port: int) -> Iterator[Scripts]:
    scripts = Scripts(tmp_path / "run", base_port)
    yield scripts
    scripts.down()


def session_of(pid: int) -> int | None:
    """The session that a process belongs to; None for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[3])


def alive(leaders: list[int]) -> list[int]:
    """What still runs of the processes and of everything that they started."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if session_of(pid) in leaders]


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"gave up waiting until {what}")
        time.sleep(0.05)


def test_a_detached_cluster_works_until_down_ends_all_of_it(scripts: Scripts, base_port: int) -> None:
    started = scripts.up("--detach")
    assert started.returncode == 0, started.stderr
    assert "Linux" in started.stdout, "the result of the first task is shown"
    assert f"http://127.0.0.1:{base_port}/docs" in started.stdout

    cluster = scripts.cluster()
    assert cluster["base_url"] == f"http://127.0.0.1:{base_port}"
    assert cluster["ws_url"] == f"ws://127.0.0.1:{base_port}/ws"
    assert cluster["redis_url"] == f"redis://127.0.0.1:{base_port + 100}/0"
    assert sorted(cluster["pids"]) == ["device", "nginx", "node-1", "node-2", "redis"]
    for number, node in enumerate(cluster["nodes"], start=1):
        assert node["url"] == f"http://127.0.0.1:{base_port + number}"
        assert node["ws_url"] == f"ws://127.0.0.1:{base_port + number}/ws"
        assert node["pid"] == cluster["pids"][f"node-{number}"]
        health = httpx.get(f"{node['url']}/api/health", trust_env=False).json()
        assert health["node_id"] == node["id"]
        command = Path(f"/proc/{node['pid']}/cmdline").read_bytes().split(b"\0")
        assert b"python" in command[0]
    assert httpx.get(f"{cluster['base_url']}/metrics", trust_env=False).status_code == 404

    again = scripts.up("--detach")
    assert again.returncode == 1
    assert "already runs" in again.stderr
    assert scripts.cluster() == cluster

    pids = list(cluster["pids"].values())
    assert len(alive(pids)) > len(pids), "nginx has workers"
    ended = scripts.down()
    assert ended.returncode == 0
    assert "killed" not in ended.stdout, "every process ended by itself"
    assert alive(pids) == []
    assert not (scripts.run_dir / "cluster.json").exists()
    assert all(is_free(base_port + offset) for offset in OFFSETS)

    assert scripts.down().returncode == 0


def test_once_shows_the_first_task_and_leaves_nothing(scripts: Scripts, base_port: int) -> None:
    done = scripts.up("--once", AIP_API_KEY="key-of-the-test")
    assert done.returncode == 0, done.stderr
    assert "Linux" in done.stdout
    assert not (scripts.run_dir / "cluster.json").exists()
    assert all(is_free(base_port + offset) for offset in OFFSETS)


@pytest.mark.parametrize(("offset", "name"), [(0, "nginx"), (2, "node-2"), (100, "redis")])
def test_a_port_in_use_is_named_with_the_flag_that_helps(
    scripts: Scripts, base_port: int, offset: int, name: str
) -> None:
    with socket.socket() as occupant:
        occupant.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        occupant.bind(("127.0.0.1", base_port + offset))
        occupant.listen()
        refused = scripts.up("--detach")
    assert refused.returncode == 4
    assert f"port {base_port + offset}" in refused.stderr
    assert name in refused.stderr
    assert "--base-port" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_node_that_does_not_start_is_reported_with_its_log(scripts: Scripts, base_port: int) -> None:
    failed = scripts.up("--detach", AIP_LOG_LEVEL="nonsense")
    assert failed.returncode == 5
    assert "node-" in failed.stderr
    assert "log_level" in failed.stderr.lower().replace("-", "_"), "the end of the log says why"
    assert all(is_free(base_port + offset) for offset in OFFSETS)


@pytest.fixture
def foreground(scripts: Scripts) -> Iterator[subprocess.Popen[str]]:
    """`up` in the foreground, ready; killed at the end if the test has not ended it."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*scripts.up_command, "--no-demo"], stdout=pipe, stderr=pipe, text=True) as process:
        try:
            wait_until(lambda: (scripts.run_dir / "cluster.json").exists() or process.poll() is not None, "it is up")
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()


def test_ctrl_c_stops_everything(scripts: Scripts, foreground: subprocess.Popen[str]) -> None:
    pids = list(scripts.cluster()["pids"].values())
    foreground.send_signal(signal.SIGINT)
    assert foreground.wait(PATIENCE_S) == 0
    assert alive(pids) == []
    assert not (scripts.run_dir / "cluster.json").exists()


def test_down_also_ends_a_cluster_in_the_foreground(scripts: Scripts, foreground: subprocess.Popen[str]) -> None:
    pids = list(scripts.cluster()["pids"].values())
    assert scripts.down().returncode == 0
    assert foreground.wait(PATIENCE_S) == 0
    assert alive(pids) == []


def test_nothing_outlives_up_even_if_it_is_killed(scripts: Scripts, foreground: subprocess.Popen[str]) -> None:
    pids = list(scripts.cluster()["pids"].values())
    foreground.kill()
    wait_until(lambda: not alive(pids), "all processes are gone")


def test_a_node_that_dies_is_reported_and_the_others_go_on(scripts: Scripts, foreground: subprocess.Popen[str]) -> None:
    before = scripts.cluster()
    os.kill(before["pids"]["node-2"], signal.SIGKILL)
    wait_until(lambda: len(scripts.cluster()["nodes"]) == 1, "the node is no longer listed")
    assert httpx.get(f"{before['base_url']}/api/health", trust_env=False).status_code == 200
    foreground.terminate()
    output, _ = foreground.communicate(timeout=PATIENCE_S)
    assert "node-2 was killed by SIGKILL" in output
    assert foreground.returncode == 0


@pytest.mark.parametrize("name", ["redis", "nginx"])
def test_without_redis_or_nginx_there_is_no_cluster(
    scripts: Scripts, foreground: subprocess.Popen[str], name: str
) -> None:
    pids = scripts.cluster()["pids"]
    os.kill(pids[name], signal.SIGTERM)
    _, errors = foreground.communicate(timeout=PATIENCE_S)
    assert foreground.returncode == 7
    assert f"{name} exited with code 0" in errors
    assert alive(list(pids.values())) == []


def test_down_leaves_a_process_alone_that_has_the_pid_of_one_of_ours(scripts: Scripts) -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        scripts.run_dir.mkdir()
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        record = {"boot_id": boot_id, "processes": [{"name": "node-1", "pid": stranger.pid, "started": 1}]}
        (scripts.run_dir / "processes.json").write_text(json.dumps(record))
        assert scripts.down().returncode == 0
        assert stranger.poll() is None
        stranger.kill()
    assert not (scripts.run_dir / "processes.json").exists()
