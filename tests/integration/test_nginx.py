"""The rendered configuration in a real nginx, in front of two small real servers."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import websockets
from lib.topologies import free_port
from websockets.sync.client import connect

from loadbalancer.render import render

pytestmark = pytest.mark.integration

UPSTREAM = Path(__file__).with_name("nginx_upstream.py")
PATIENCE_S = 20.0
SECRET = "very-secret-token"


def nginx_binary() -> str:
    """nginx, or skip; where servers are required, fail."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found:
        return found
    if os.environ.get("AIP_TEST_REQUIRE_SERVERS"):
        pytest.fail("nginx is required (AIP_TEST_REQUIRE_SERVERS is set) and not installed")
    pytest.skip("nginx is not installed")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"gave up waiting until {what}")
        time.sleep(0.02)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: listens(port) or process.poll() is not None, f"port {port} is open")
        assert process.poll() is None, f"{command[0]} exited with {process.returncode}"
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


class Front:
    """nginx in front of servers a and b."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal = directory / "journal.jsonl"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.servers: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, stack: ExitStack, **options: object) -> None:
        ports = [free_port(), free_port()]
        for name, port in zip("ab", ports, strict=True):
            command = [sys.executable, str(UPSTREAM), name, str(port), str(self.journal)]
            self.servers[name] = stack.enter_context(running(command, port))
        text = render(
            [f"127.0.0.1:{port}" for port in ports],
            f"127.0.0.1:{self.port}",
            self.directory,
            user="root" if os.geteuid() == 0 else None,
            worker_processes=1,
            worker_connections=256,
            **options,  # type: ignore[arg-type]
        )
        config = self.directory / "nginx.conf"
        config.write_text(text)
        command = [nginx_binary(), "-p", str(self.directory), "-c", str(config), "-e", "stderr"]
        subprocess.run([*command, "-t"], check=True, capture_output=True)
        stack.enter_context(running([*command, "-g", "daemon off;"], self.port))

    def seen(self, kind: str) -> list[str]:
        """The names of the servers that `kind` reached."""
        if not self.journal.exists():
            return []
        entries = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [entry["name"] for entry in entries if entry["kind"] == kind]

    def access_log(self, path: str) -> dict[str, object]:
        """The line of the access log about `path`, which is written with a delay."""
        file = self.directory / "nginx-access.log"
        found: list[dict[str, object]] = []

        def look() -> bool:
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            found[:] = [line for line in lines if line["path"] == path]
            return bool(found)

        wait_until(look, f"{path} is in the access log")
        return found[0]


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    nginx_binary()
    with ExitStack() as stack:
        balanced = Front(tmp_path)
        balanced.start(stack)
        yield balanced


def test_a_websocket_is_upgraded_and_reaches_every_server(front: Front) -> None:
    names = set()
    with ExitStack() as stack:
        for number in range(4):
            client = stack.enter_context(connect(f"ws://127.0.0.1:{front.port}/ws?token={SECRET}", proxy=None))
            names.add(client.recv())
            client.send(f"hello {number}")
            assert client.recv() == f"hello {number}"
    assert names == {"a", "b"}


def test_only_ws_is_upgraded(front: Front) -> None:
    with pytest.raises(websockets.InvalidStatus), connect(f"ws://127.0.0.1:{front.port}/other", proxy=None):
        pass
    assert front.seen("websocket") == []


def test_a_post_is_not_repeated_when_its_server_dies(front: Front) -> None:
    answer = httpx.post(f"{front.url}/api/die", json={"request": "once"}, trust_env=False)
    assert answer.status_code == 502
    assert answer.json() == {"detail": "no node answered"}
    assert len(front.seen("POST /api/die")) == 1


def test_a_get_is_repeated_on_the_other_server(front: Front) -> None:
    answer = httpx.get(f"{front.url}/api/die", trust_env=False)
    assert answer.status_code == 200
    assert sorted(front.seen("GET /api/die")) == ["a", "b"]


def test_a_post_that_no_server_has_seen_goes_to_the_one_that_is_there(front: Front) -> None:
    front.servers["a"].kill()
    front.servers["a"].wait()
    names = [httpx.post(f"{front.url}/api/echo", trust_env=False).json()["name"] for _ in range(6)]
    assert names == ["b"] * 6


def test_a_socket_that_one_server_refuses_goes_to_the_other_and_no_server_is_given_up(front: Front) -> None:
    front.journal.with_suffix(".full-a").touch()
    with ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(connect(f"ws://127.0.0.1:{front.port}/ws", proxy=None))
            assert client.recv() == "b"
        # The one with fewer sockets was asked first each time, also after many refusals.
        assert front.seen("refused websocket") == ["a"] * 8
        # A refusal of sockets says nothing about requests.
        names = {httpx.get(f"{front.url}/api/echo", trust_env=False).json()["name"] for _ in range(8)}
        assert names == {"a", "b"}
        front.journal.with_suffix(".full-a").unlink()
        client = stack.enter_context(connect(f"ws://127.0.0.1:{front.port}/ws", proxy=None))
        assert client.recv() == "a"


def test_when_every_server_refuses_the_client_is_told_when_to_come_back(front: Front) -> None:
    for name in "ab":
        front.journal.with_suffix(f".full-{name}").touch()
    for _ in range(6):
        with (
            pytest.raises(websockets.InvalidStatus) as refused,
            connect(f"ws://127.0.0.1:{front.port}/ws", proxy=None),
        ):
            pass
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "3"
    assert sorted(front.seen("refused websocket")) == ["a"] * 6 + ["b"] * 6


def test_a_socket_goes_to_the_server_that_is_there(front: Front) -> None:
    front.servers["a"].kill()
    front.servers["a"].wait()
    with ExitStack() as stack:
        for _ in range(6):
            client = stack.enter_context(connect(f"ws://127.0.0.1:{front.port}/ws", proxy=None))
            assert client.recv() == "b"


def test_what_is_meant_for_one_node_is_not_balanced(front: Front) -> None:
    for path in ("/api/nodes/self/drain", "/api/nodes/self", "/api/nodes/%73elf/drain"):
        assert httpx.post(f"{front.url}{path}", trust_env=False).status_code == 404
    assert not front.journal.exists()
    assert httpx.get(f"{front.url}/api/nodes", trust_env=False).status_code == 200


def test_forwarded_headers_are_set_and_not_believed(front: Front) -> None:
    claimed = {
        "X-Forwarded-For": "1.2.3.4",
        "X-Real-IP": "1.2.3.4",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=1.2.3.4",
    }
    headers = httpx.get(f"{front.url}/api/echo", headers=claimed, trust_env=False).json()["headers"]
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-real-ip"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["host"] == f"127.0.0.1:{front.port}"
    assert "forwarded" not in headers


@pytest.mark.parametrize(("given", "kept"), [("order-17.a:b", True), ('bad "id"', False), ("x" * 200, False)])
def test_a_request_id_is_kept_if_it_is_safe_and_made_otherwise(front: Front, given: str, kept: bool) -> None:
    answer = httpx.get(f"{front.url}/api/echo", headers={"X-Request-ID": given}, trust_env=False)
    inside = answer.json()["headers"]["x-request-id"]
    assert answer.headers.get_list("x-request-id") == [inside]
    assert (inside == given) is kept
    assert inside


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/api/../metrics"])
def test_metrics_are_not_public(front: Front, path: str) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE_S) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        status = client.makefile("rb").readline()
    assert b" 404 " in status
    assert not front.journal.exists()


def test_a_body_over_the_limit_is_refused_before_it_reaches_a_server(front: Front) -> None:
    assert httpx.post(f"{front.url}/api/echo", content=b"x" * 2_097_152, trust_env=False).json()["bytes"]
    answer = httpx.post(f"{front.url}/api/echo", content=b"x" * 2_097_153, trust_env=False)
    assert answer.status_code == 413
    assert "2097152" in answer.json()["detail"]
    assert len(front.seen("POST /api/echo")) == 1


def test_a_file_may_be_larger_than_a_body(front: Front) -> None:
    path = "/api/sessions/galaxy@task_1/files/video.mp4"
    answer = httpx.put(f"{front.url}{path}", content=b"x" * 3_000_000, trust_env=False)
    assert answer.status_code != 413
    assert len(front.seen(f"PUT {path}")) == 1


def test_events_arrive_one_by_one(front: Front) -> None:
    with httpx.stream("GET", f"{front.url}/api/events", trust_env=False, timeout=PATIENCE_S) as answer:
        read: list[str] = []
        for line in answer.iter_lines():
            if line:
                front.journal.with_suffix(f".read{len(read)}").touch()
                read.append(line)
    assert read == ["data: 0", "data: 1", "data: 2"]


def test_no_log_holds_a_query_string(front: Front) -> None:
    url = f"{front.url}/api/echo?token={SECRET}"
    assert httpx.get(url, headers={"Referer": url}, trust_env=False).status_code == 200
    for server in front.servers.values():
        server.kill()
        server.wait()
    assert httpx.get(f"{front.url}/api/gone?token={SECRET}", trust_env=False).status_code == 502
    assert httpx.get(f"{front.url}/ws?token={SECRET}", trust_env=False).status_code == 502

    line = front.access_log("/ws")
    assert line["status"] == 502
    assert line["method"] == "GET"
    assert front.access_log("/api/echo")["node_status"] == "200"
    for file in front.directory.glob("*.log"):
        assert SECRET not in file.read_text(), f"{file.name} holds the token"


def test_connections_of_one_address_can_be_limited(tmp_path: Path) -> None:
    nginx_binary()
    with ExitStack() as stack:
        front = Front(tmp_path)
        front.start(stack, connections_per_address=1)
        with connect(f"ws://127.0.0.1:{front.port}/ws", proxy=None) as first:
            first.recv()
            refused = httpx.get(f"{front.url}/api/echo", trust_env=False)
    assert refused.status_code == 429
    assert refused.json() == {"detail": "too many connections from this address"}


def test_tls_is_served(tmp_path: Path) -> None:
    nginx_binary()
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    with ExitStack() as stack:
        front = Front(tmp_path)
        front.start(stack, tls=(certificate, key))
        context = ssl.create_default_context(cafile=certificate)
        answer = httpx.get(f"https://127.0.0.1:{front.port}/api/echo", verify=context, trust_env=False)
    assert answer.json()["headers"]["x-forwarded-proto"] == "https"
