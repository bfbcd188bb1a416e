"""The Redis that the chart brings for trials, run as its container runs it: with the script and the file that Helm
renders, on this machine's redis-server."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from devtools.chart.rendering import rendered
from tests.integration.harness.nodes import NodeProcess
from tests.integration.harness.patience import eventually
from tests.integration.harness.processes import Process, clean_environment, free_port
from tests.integration.harness.redis_servers import needs_single_redis
from tests.support.redis_server import require_redis

pytestmark = [pytest.mark.integration, needs_single_redis("it is the chart's own Redis that is looked at")]

# A password is taken as it is: nothing of it is an end, a space or an escape to the shell, to Redis, or in a URL.
PASSWORD = "p@ss w/r%d $HOME #1 'x' ;&+"
RELEASE = rendered({"redis": {"existingSecret": "aip-redis"}})
CONTAINER = RELEASE.named("StatefulSet", "-redis")["spec"]["template"]["spec"]["containers"][0]


class BundledRedis:
    """The container of the chart on this machine: its three volumes are folders."""

    def __init__(self, directory: Path, password: str) -> None:
        self.port = free_port()
        self._volumes = {"/etc/redis": directory / "etc", "/run/redis": directory / "run", "/data": directory / "data"}
        for folder in self._volumes.values():
            folder.mkdir()
        conf = RELEASE.named("ConfigMap", "-redis")["data"]["redis.conf"]
        (directory / "etc" / "redis.conf").write_text(self.here(f"{conf}\nport {self.port}\n"), encoding="utf-8")
        self.environment = {**clean_environment(), "REDISCLI_AUTH": password}
        self.command = [self.here(word) for word in CONTAINER["command"]]
        self.process = Process("redis", self.command, directory / "redis.log", self.environment)

    def here(self, text: str) -> str:
        """What is said about the container, of this machine."""
        for path, folder in self._volumes.items():
            text = text.replace(path, str(folder))
        return text.replace("redis-cli ", f"redis-cli -p {self.port} ")

    def passes(self, probe: str) -> bool:
        """Whether the container passes a probe that is a command."""
        command = [self.here(word) for word in CONTAINER[probe]["exec"]["command"]]
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0


@pytest.fixture
def bundled(tmp_path: Path) -> Iterator[BundledRedis]:
    """It runs."""
    require_redis()
    server = BundledRedis(tmp_path, PASSWORD)
    server.process.launch()
    try:
        yield server
    finally:
        server.process.dispose()


async def test_a_node_logs_in_with_any_password_and_finds_nothing_to_warn_of(
    bundled: BundledRedis, tmp_path: Path
) -> None:
    await eventually(lambda: bundled.passes("startupProbe"), "the start-up probe passes")
    assert bundled.passes("readinessProbe")
    (variable,) = [v for v in CONTAINER["env"] if v["name"] == "REDISCLI_AUTH"]
    assert variable["valueFrom"]["secretKeyRef"]["name"] == "aip-redis"
    url = f"redis://127.0.0.1:{bundled.port}/0"
    node = NodeProcess("node", tmp_path, redis_url=url, redis_password=PASSWORD)
    try:
        node.launch()
        node.wait_until("/readyz")
        assert "server_check" not in node.log()
        assert PASSWORD not in node.log()
    finally:
        node.dispose()
    with redis.Redis(port=bundled.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


async def test_what_it_was_told_outlives_it(bundled: BundledRedis) -> None:
    await eventually(lambda: bundled.passes("startupProbe"), "the start-up probe passes")
    with redis.Redis(port=bundled.port, password=PASSWORD) as client:
        client.set("kept", "yes", ex=600)
    bundled.process.stop()
    bundled.process.launch()
    await eventually(lambda: bundled.passes("startupProbe"), "the start-up probe passes again")
    with redis.Redis(port=bundled.port, password=PASSWORD) as client:
        assert client.get("kept") == b"yes"


@pytest.mark.parametrize("password", ['a"b', "a\\b"])
def test_a_password_that_its_file_cannot_hold_is_refused(password: str, tmp_path: Path) -> None:
    server = BundledRedis(tmp_path, password)
    done = subprocess.run(
        server.command, env=server.environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "must not hold quotes or backslashes" in done.stderr
