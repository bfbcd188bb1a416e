"""What nginx does before any node is asked: TLS, limits, addresses, and what is for operators only."""

import contextlib
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.integration.conftest import MakeFront
from tests.integration.harness.nginx import Front
from tests.integration.harness.processes import free_port
from tests.support.malformed import MALFORMED, ask_raw, is_json_refusal

pytestmark = pytest.mark.integration

ECHO = "/api/echo"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, trust_env=False)


def handshake(front: Front, context: ssl.SSLContext) -> str | None:
    with (
        socket.create_connection(("127.0.0.1", front.port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
    ):
        return wrapped.version()


def test_tls_is_served_from_1_2_on_and_plain_http_is_sent_on_to_it(
    make_front: MakeFront, certificate: tuple[Path, Path]
) -> None:
    plain = free_port()
    front = make_front(tls=certificate, redirect_listen=f"127.0.0.1:{plain}")
    context = ssl.create_default_context(cafile=certificate[0])
    secure = f"https://127.0.0.1:{front.port}"

    answer = httpx.get(f"{secure}{ECHO}", verify=context, trust_env=False)
    assert answer.json()["headers"]["x-forwarded-proto"] == "https"
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    with connect(f"wss://127.0.0.1:{front.port}/ws", ssl=context, proxy=None) as client:
        assert client.recv() in {"a", "b"}

    sent_on = httpx.post(f"http://127.0.0.1:{plain}/api/dispatch?x=1", json={}, trust_env=False)
    assert (sent_on.status_code, sent_on.headers["location"]) == (308, f"{secure}/api/dispatch?x=1")
    refused = get(f"{front.url}{ECHO}")
    assert (refused.status_code, refused.json()["detail"]) == (400, "this port speaks TLS: ask for https or wss")

    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(front, context) == "TLSv1.2"
    context.set_ciphers("AES128-SHA256:ECDHE-ECDSA-AES128-SHA256")
    with pytest.raises(ssl.SSLError):
        handshake(front, context)
    assert front.nginx.line(ECHO)["tls"] == "TLSv1.3"


def test_connections_of_one_address_can_be_limited(make_front: MakeFront) -> None:
    front = make_front(connections_per_address=1)
    with connect(front.ws_url, proxy=None) as first:
        first.recv()
        refused = get(f"{front.url}{ECHO}")
    assert refused.status_code == 429
    assert refused.json() == {"detail": "too many connections from this address"}
    assert refused.headers.get_list("retry-after") == ["1"]
    assert front.nginx.line(ECHO)["limited"] == "connections"


def test_requests_of_one_address_can_be_limited_but_for_addresses_that_are_known(make_front: MakeFront) -> None:
    # One a second and two at once: twenty in a row take nowhere near the seventeen seconds that they are allowed in.
    front = make_front(
        requests_per_second=1, request_burst=2, trusted_proxies=["127.0.0.0/8"], unlimited=["192.0.2.0/24"]
    )
    answers = [get(f"{front.url}{ECHO}", **{"X-Forwarded-For": "198.51.100.7"}) for _ in range(20)]
    assert answers[0].status_code == 200
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert refused[0].json() == {"detail": "too many requests from this address"}
    assert {answer.headers.get("retry-after") for answer in answers} == {None, "1"}
    assert len(front.seen(f"GET {ECHO}")) == len(answers) - len(refused)

    assert get(f"{front.url}{ECHO}", **{"X-Forwarded-For": "198.51.100.8"}).status_code == 200
    known = [get(f"{front.url}{ECHO}", **{"X-Forwarded-For": "192.0.2.9"}) for _ in range(20)]
    assert {answer.status_code for answer in known} == {200}


def test_behind_a_trusted_proxy_the_client_is_the_one_that_the_proxy_names(make_front: MakeFront) -> None:
    front = make_front(trusted_proxies=["127.0.0.0/8"])
    said = {"X-Forwarded-For": "203.0.113.9, 198.51.100.7", "X-Forwarded-Proto": "https"}
    headers = get(f"{front.url}{ECHO}", **said).json()["headers"]
    # The last of those that are no proxies of ours: what stands before it was said by the client itself.
    assert headers["x-forwarded-for"] == headers["x-real-ip"] == "198.51.100.7"
    assert headers["x-forwarded-proto"] == "https"
    assert front.nginx.line(ECHO)["client"] == "198.51.100.7"


def test_operators_reach_every_node_and_the_counts_of_nginx_at_an_address_of_their_own(make_front: MakeFront) -> None:
    admin = free_port()
    front = make_front(admin_listen=f"127.0.0.1:{admin}", connections_per_address=1)
    url = f"http://127.0.0.1:{admin}"
    assert "Active connections" in get(f"{url}/status").text
    for name, node in zip("ab", front.nodes, strict=True):
        answer = httpx.post(f"{url}/nodes/{node}/api/nodes/self/drain?rate=5&token=secret", trust_env=False)
        assert answer.json()["name"] == name
        assert front.seen("POST /api/nodes/self/drain")[-1] == name
        assert get(f"{url}/nodes/{node}/metrics").json()["name"] == name
    assert get(f"{url}/nodes/127.0.0.1:1/metrics").status_code == 404
    assert get(f"{url}/metrics").status_code == 404
    # The way in for everybody knows nothing of it.
    assert get(f"{front.url}/status").json().get("name") in {"a", "b"}
    for path in (f"/nodes/{front.nodes[0]}/api/nodes/self/drain", "/api/nodes/self/drain"):
        httpx.post(f"{front.url}{path}", trust_env=False)
    assert len(front.seen("POST /api/nodes/self/drain")) == 2
    assert "secret" not in str(front.nginx.line(f"/nodes/{front.nodes[0]}/api/nodes/self/drain"))


def test_whoever_is_not_an_operator_is_turned_away(make_front: MakeFront) -> None:
    admin = free_port()
    front = make_front(admin_listen=f"127.0.0.1:{admin}", admin_from=["192.0.2.0/24"], trusted_proxies=["127.0.0.0/8"])
    for path in ("/status", f"/nodes/{front.nodes[0]}/metrics"):
        # No header helps: here the address is that of the connection.
        answer = get(f"http://127.0.0.1:{admin}{path}", **{"X-Forwarded-For": "192.0.2.1"})
        assert (answer.status_code, answer.json()) == (403, {"detail": "not from this address"})
    assert not front.journal.exists()


def test_answers_of_nodes_and_of_nginx_carry_the_same_headers(front: Front) -> None:
    for path in (ECHO, "/metrics"):
        answer = get(f"{front.url}{path}")
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert len(answer.headers.get_list("x-request-id")) == 1
        assert answer.headers["server"] == "nginx"


def test_a_head_that_a_node_would_not_take_is_refused_here(front: Front) -> None:
    assert get(f"{front.url}{ECHO}", **{"X-Long": "x" * 11_000}).status_code == 200
    refused = get(f"{front.url}{ECHO}", **{"X-Long": "x" * 13_000})
    assert refused.status_code == 400
    assert refused.json() == {"detail": "the head of the request is malformed or too large"}
    assert len(front.seen(f"GET {ECHO}")) == 1


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_request_is_refused_in_json(front: Front, what: str) -> None:
    assert is_json_refusal(*ask_raw(front.port, MALFORMED[what] + b"\r\n"))
    assert not front.journal.exists() or not front.seen(f"GET {ECHO}")


def test_what_is_no_upgrade_is_an_ordinary_request(front: Front) -> None:
    said = {"Upgrade": "h2c, \x7fgarbage", "Connection": "Upgrade, HTTP2-Settings", "X-Request-ID": "a\tb"}
    answer = get(f"{front.url}{ECHO}", **said)
    assert answer.status_code == 200
    assert "upgrade" not in answer.json()["headers"]
    assert answer.headers["x-request-id"] != "a\tb"


def test_one_address_cannot_take_all_connections_of_a_worker(make_front: MakeFront) -> None:
    # One worker with room for 256 connections bears 128 clients: a quarter of them is 32.
    front = make_front(connections_per_address=None, trusted_proxies=["127.0.0.0/8"])
    head = b"POST /api/dispatch HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: %b\r\nContent-Length: 10\r\n\r\n"
    with contextlib.ExitStack() as held:
        for _ in range(32):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", front.port), timeout=20))
            connection.sendall(head % b"198.51.100.7")
        assert get(f"{front.url}{ECHO}", **{"X-Forwarded-For": "198.51.100.7"}).status_code == 429
        assert get(f"{front.url}{ECHO}", **{"X-Forwarded-For": "198.51.100.8"}).status_code == 200
