"""The rendered configuration in a real nginx, in front of two small real servers."""

import socket
from contextlib import ExitStack

import httpx
import pytest
import websockets
from websockets.sync.client import connect

from tests.integration.conftest import MakeFront
from tests.integration.harness.nginx import Front

pytestmark = pytest.mark.integration

PATIENCE_S = 20.0
SECRET = "very-secret-token"


def get(front: Front, path: str = "/api/echo") -> httpx.Response:
    return httpx.get(f"{front.url}{path}", trust_env=False)


def post(front: Front, path: str = "/api/echo") -> httpx.Response:
    return httpx.post(f"{front.url}{path}", trust_env=False)


def test_a_websocket_is_upgraded_and_reaches_every_server(front: Front) -> None:
    names = set()
    with ExitStack() as stack:
        for number in range(4):
            client = stack.enter_context(connect(f"{front.ws_url}?token={SECRET}", proxy=None))
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
    names = [httpx.post(f"{front.url}/api/echo", trust_env=False).json()["name"] for _ in range(6)]
    assert names == ["b"] * 6


def test_a_server_that_cannot_serve_is_left_out_once_somebody_has_asked_what_may_be_repeated(front: Front) -> None:
    front.journal.with_suffix(".unready-a").touch()
    for _ in range(8):
        # Either this finds it out, or it has been found out and not been tried again since.
        assert [get(front).json()["name"] for _ in range(2)] == ["b", "b"]
        assert post(front).json()["name"] == "b"
    assert front.seen("refused GET")
    assert front.seen("refused POST") == []


def test_a_post_that_a_server_refuses_is_answered_with_the_refusal(front: Front) -> None:
    for name in "ab":
        front.journal.with_suffix(f".unready-{name}").touch()
    refused = post(front)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "3")
    assert len(front.seen("refused POST")) == 1


def test_when_no_server_can_serve_their_own_refusal_is_told_and_their_recovery_is_noticed_at_once(front: Front) -> None:
    for name in "ab":
        front.journal.with_suffix(f".unready-{name}").touch()
    for _ in range(10):
        refused = get(front)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "3")
    front.journal.with_suffix(".unready-b").unlink()
    front.journal.with_suffix(".unready-a").unlink()
    assert [get(front).status_code for _ in range(10)] == [200] * 10
    assert [post(front).status_code for _ in range(10)] == [200] * 10


def test_a_socket_that_one_server_refuses_goes_to_the_other_and_no_server_is_given_up(front: Front) -> None:
    front.journal.with_suffix(".full-a").touch()
    with ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(connect(front.ws_url, proxy=None))
            assert client.recv() == "b"
        # The one with fewer sockets was asked first each time, also after many refusals.
        assert front.seen("refused websocket") == ["a"] * 8
        # A refusal of sockets says nothing about requests.
        names = {httpx.get(f"{front.url}/api/echo", trust_env=False).json()["name"] for _ in range(8)}
        assert names == {"a", "b"}
        front.journal.with_suffix(".full-a").unlink()
        client = stack.enter_context(connect(front.ws_url, proxy=None))
        assert client.recv() == "a"


def test_when_every_server_refuses_the_client_is_told_when_to_come_back(front: Front) -> None:
    for name in "ab":
        front.journal.with_suffix(f".full-{name}").touch()
    for _ in range(6):
        with (
            pytest.raises(websockets.InvalidStatus) as refused,
            connect(front.ws_url, proxy=None),
        ):
            pass
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "3"
    assert sorted(front.seen("refused websocket")) == ["a"] * 6 + ["b"] * 6


def test_a_socket_goes_to_the_server_that_is_there(front: Front) -> None:
    front.servers["a"].kill()
    with ExitStack() as stack:
        for _ in range(6):
            client = stack.enter_context(connect(front.ws_url, proxy=None))
            assert client.recv() == "b"


def test_sockets_of_before_a_reload_are_cut_when_their_time_is_over_and_not_before(make_front: MakeFront) -> None:
    front = make_front(drain_seconds=1)
    with connect(front.ws_url, proxy=None) as client:
        client.recv()
        front.nginx.reload(front.nodes)
        client.send("still there")
        assert client.recv() == "still there"
        with pytest.raises(websockets.ConnectionClosed):
            client.recv(timeout=PATIENCE_S)


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


@pytest.mark.parametrize(
    ("given", "kept"), [("order-17.a_b", True), ("a:b", False), ('bad "id"', False), ("x" * 200, False)]
)
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
    assert httpx.get(f"{front.url}/api/gone?token={SECRET}", trust_env=False).status_code == 502
    assert httpx.get(f"{front.url}/ws?token={SECRET}", trust_env=False).status_code == 502

    line = front.nginx.line("/ws")
    assert line["status"] == 502
    assert line["method"] == "GET"
    assert front.nginx.line("/api/echo")["node_status"] == "200"
    for file in front.directory.glob("*.log"):
        assert SECRET not in file.read_text(), f"{file.name} holds the token"
