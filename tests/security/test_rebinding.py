"""A web page that its visitor's browser took to a node, under its own name or from its own site, gets nothing of it."""

import pytest

from node.api.routes import ROUTES
from node.app import Node
from tests.support.asgi import Device, Socket, rest
from tests.unit.node.conftest import MakeNode

EVIL = "evil.example:5000"
REBOUND = {"Host": EVIL, "Origin": f"http://{EVIL}", "Sec-Fetch-Site": "same-origin"}
UNSAFE = [op for op in ROUTES if op.method not in {"GET", "HEAD"}]


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


def _path(pattern: str) -> str:
    return pattern.replace("{session_id:path}", "s").replace("{name}", "n")


# -- Host ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("local", [True, False])
async def test_a_rebound_name_reads_nothing_where_no_key_is_set(make_node: MakeNode, local: bool) -> None:
    node = await make_node(local=local)
    async with Device(node), rest(node, headers=REBOUND) as api:
        for path in ("/api/clients", "/api/sessions", "/api/nodes", "/metrics", "/api/health", "/openapi.json", "/"):
            answer = await api.get(path)
            assert answer.status_code == 421, path
            assert "allowed_hosts (AIP_ALLOWED_HOSTS)" in answer.json()["detail"]
            assert "evil.example" in answer.json()["detail"]


async def test_a_rebound_name_opens_no_socket_where_no_key_is_set(node: Node) -> None:
    async with Socket(node, headers=_raw(REBOUND)) as socket:
        assert socket.denied_with == 421


async def test_a_rebound_name_drains_no_node_where_no_key_is_set(node: Node) -> None:
    async with rest(node, headers=REBOUND) as api:
        assert (await api.post("/api/nodes/self/drain")).status_code == 421
    assert not node.drainer.active


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:5000", "localhost.:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000", "[::1]"),
        # Nobody can point an address elsewhere: pods, machines of a LAN.
        *("10.1.2.3:5000", "192.168.0.7", "[fd00::7]:5000"),
    ],
)
async def test_addresses_and_localhost_need_no_setting(node: Node, host: str) -> None:
    async with rest(node, headers={"Host": host, "Origin": f"http://{host}"}) as api:
        assert (await api.get("/api/clients")).status_code == 200
        assert (await api.post("/api/dispatch", json={})).status_code == 400
    async with Socket(node, headers=_raw({"Host": host})) as socket:
        assert socket.denied_with is None


async def test_probes_are_answered_under_any_name(node: Node) -> None:
    async with rest(node, headers={"Host": EVIL}) as api:
        assert (await api.get("/livez")).status_code == 200
        assert (await api.get("/readyz")).status_code == 200


# -- Origin ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "said",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:5001"},
        {"Origin": "http://[::1"},
        {"Origin": ""},
        {"Origin": "localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
)
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_page_of_another_site_changes_nothing(
    make_node: MakeNode, said: dict[str, str], key: str | None
) -> None:
    node = await make_node(api_key=key)
    headers = said | ({"X-API-Key": key} if key else {}) | {"Content-Type": "text/plain"}
    async with rest(node, headers=headers) as api:
        for op in UNSAFE:
            answer = await api.request(op.method, _path(op.path), content=b"{}")
            assert (answer.status_code, set(answer.json())) == (403, {"detail"}), op.path
            assert "allowed_origins" in answer.json()["detail"]
    assert not node.drainer.active


async def test_a_page_of_another_site_may_read_what_its_browser_will_not_show_it(node: Node) -> None:
    async with rest(node, headers={"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}) as api:
        answer = await api.get("/api/clients")
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://console.example", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_own_pages_listed_pages_and_programs_go_on(make_node: MakeNode, said: dict[str, str]) -> None:
    node = await make_node(allowed_origins="https://console.example")
    async with rest(node, headers=said) as api:
        assert (await api.post("/api/nodes/self/drain")).status_code == 202
        assert (await api.delete("/api/nodes/self/drain")).status_code == 200
    async with Socket(node, headers=_raw(said)) as socket:
        assert socket.denied_with is None


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://[::1", "null", "http://localhost@evil.example", "//"]
)
async def test_a_page_of_another_site_opens_no_socket(node: Node, origin: str) -> None:
    async with Socket(node, headers=_raw({"Origin": origin})) as socket:
        assert socket.denied_with == 403
