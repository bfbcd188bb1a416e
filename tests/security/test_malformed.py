"""What is no request gets 4xx in JSON from a node, which says nothing about it in its log but a warning."""

from collections.abc import Iterator

import pytest

from tests.integration.harness.nodes import NodeProcess
from tests.support.malformed import HOST, MALFORMED, UPGRADE, ask_raw, is_json_refusal

# A node has routes of any name, and does not read paths as nginx does: these are odd, and not malformed.
SERVED = {"a header of 50 kB": b"GET /livez HTTP/1.1\r\n" + HOST + b"X-Long: " + b"x" * 50_000 + b"\r\n"}
MORE = {
    "bytes above ASCII in a query": b"GET /api/sessions?client_id=\xff HTTP/1.1\r\n" + HOST,
    "bytes above ASCII in a path": b"GET /api/clients/\xff HTTP/1.1\r\n" + HOST,
    "a path that is no UTF-8": b"GET /api/clients/%ff%fe HTTP/1.1\r\n" + HOST,
    "a surrogate in a path": b"GET /api/task_result/%ed%a0%80 HTTP/1.1\r\n" + HOST,
    "an Origin that is none": b"POST /api/nodes/self/drain HTTP/1.1\r\n" + HOST + b"Origin: http://[::1\r\n",
    "an Origin above ASCII": b"POST /api/nodes/self/drain HTTP/1.1\r\n" + HOST + b"Origin: http://\xff\r\n",
    "a Content-Type above ASCII": b"POST /api/dispatch HTTP/1.1\r\n" + HOST + b"Content-Type: \xff\r\n",
    "an Idempotency-Key above ASCII": b"POST /api/dispatch HTTP/1.1\r\n" + HOST + b"Idempotency-Key: \xff\r\n",
    "a Last-Event-ID above ASCII": b"GET /api/sessions/x/events HTTP/1.1\r\n" + HOST + b"Last-Event-ID: \xff\r\n",
    "a forwarded address that is none": b"GET /api/clients/x HTTP/1.1\r\n" + HOST + b"X-Forwarded-For: \xff,,[::1\r\n",
    "a Content-Length beyond all numbers": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 30 + b"\r\n",
    "an upgrade to nonsense": b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: \x7fx\r\n",
    "a socket without a key": b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    "a socket by POST": b"POST /ws HTTP/1.1\r\n" + HOST + UPGRADE,
    "a socket of no version": b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE.replace(b": 13", b": 99"),
    "a socket at another path": b"GET /other HTTP/1.1\r\n" + HOST + UPGRADE,
    "a socket from an Origin that is none": b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE + b"Origin: http://[::1\r\n",
    "a socket without a Host": b"GET /ws HTTP/1.1\r\n" + UPGRADE,
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node, which logs no error through all of it."""
    process = NodeProcess("node", tmp_path_factory.mktemp("node"), redis_url="embedded://")
    process.launch()
    process.wait_until("/readyz")
    yield process
    log = process.log()
    process.dispose()
    assert "Traceback" not in log
    assert " ERROR " not in log


@pytest.mark.parametrize("what", sorted({**MALFORMED, **MORE}))
def test_what_is_no_request_is_refused_in_json(node: NodeProcess, what: str) -> None:
    assert is_json_refusal(*ask_raw(node.port, {**MALFORMED, **MORE}[what] + b"\r\n"))


@pytest.mark.parametrize("what", SERVED)
def test_what_is_only_large_is_served(node: NodeProcess, what: str) -> None:
    assert ask_raw(node.port, SERVED[what] + b"\r\n")[0] == 200
