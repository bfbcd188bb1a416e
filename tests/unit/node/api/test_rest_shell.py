"""Around every request: its id, the key, plain answers to what is not routed, and nothing of our insides."""

import re

import httpx
import pytest

from node.api.docs import DOCS_PATHS
from node.api.middleware import OPEN_PATHS
from node.api.routes import ROUTES
from node.app import Node
from shared_state.errors import StateError, StateUnavailable
from tests.support.asgi import Socket, rest
from tests.unit.node.conftest import MakeNode

KEY = "s3cret-ключ"
OURS = re.compile(r"[0-9a-f]{12}-[1-9][0-9]*")
GUARDED = ["/api/clients", "/api/clients/x", "/api/sessions", "/api/sessions/x", "/api/nodes", "/api/task_result/x"]


def _shown(key: str) -> dict[bytes, bytes]:
    return {b"X-API-Key": key.encode()}


@pytest.mark.parametrize("path", ["/livez", "/api/clients", "/nowhere", "/api/sessions?limit=x"])
async def test_every_answer_carries_an_id_of_its_own(api: httpx.AsyncClient, path: str) -> None:
    first, second = (await api.get(path)).headers["X-Request-ID"], (await api.get(path)).headers["X-Request-ID"]
    assert first != second
    assert OURS.fullmatch(first)


async def test_an_id_that_was_given_is_kept(api: httpx.AsyncClient) -> None:
    answer = await api.get("/livez", headers={"X-Request-ID": "trace-1.2_3"})
    assert answer.headers.get_list("X-Request-ID") == ["trace-1.2_3"]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "ä", "<script>", '"'])
async def test_an_id_that_could_forge_a_line_is_replaced(api: httpx.AsyncClient, given: str) -> None:
    answer = await api.get("/livez", headers={b"X-Request-ID": given.encode()})
    assert answer.headers["X-Request-ID"] != given
    assert OURS.fullmatch(answer.headers["X-Request-ID"])


@pytest.mark.parametrize("path", GUARDED)
async def test_with_a_key_set_rest_wants_it(make_node: MakeNode, path: str) -> None:
    async with rest(await make_node(api_key=KEY)) as api:
        without = await api.get(path)
        assert (without.status_code, without.json()) == (401, {"detail": "Missing or wrong API key"})
        assert "X-Request-ID" in without.headers
        assert (await api.get(path, headers=_shown("wrong"))).status_code == 401
        assert (await api.get(path, params={"token": KEY})).status_code == 401, "a query is logged by others"
        assert (await api.get(path, headers=_shown(KEY))).status_code in {200, 404}


async def test_with_a_key_set_nothing_can_be_dispatched_without_it(make_node: MakeNode) -> None:
    async with rest(await make_node(api_key=KEY)) as api:
        assert (await api.post("/api/dispatch", json={})).status_code == 401
        assert (await api.post("/api/dispatch", json={}, headers=_shown(KEY))).status_code == 400
        assert (await api.post("/api/sessions/x/cancel")).status_code == 401
        assert (await api.get("/nowhere")).status_code == 401, "what exists is nobody's business"


async def test_probes_and_documents_need_no_key(make_node: MakeNode) -> None:
    async with rest(await make_node(api_key=KEY)) as api:
        for path in sorted(OPEN_PATHS):
            assert (await api.get(path)).status_code in {200, 307}, path


def test_what_the_table_calls_unguarded_is_what_is_open() -> None:
    assert {op.path for op in ROUTES if not op.guarded} == OPEN_PATHS - {"/", "/openapi.json"} - DOCS_PATHS


@pytest.mark.parametrize("path", ["/api/health/", "//api/health", "/livez/../api/clients", "/API/HEALTH"])
async def test_no_spelling_of_an_open_path_opens_another(make_node: MakeNode, path: str) -> None:
    async with rest(await make_node(api_key=KEY)) as api:
        assert (await api.get(f"http://node{path}")).status_code == 401


async def test_a_socket_wants_the_key_in_a_header_or_as_token(make_node: MakeNode) -> None:
    node = await make_node(api_key="plain-key")
    shown = [(b"x-api-key", b"plain-key")]
    for query, headers, denied in (
        (b"", [], 401),
        (b"token=wrong", [], 401),
        (b"", [(b"x-api-key", b"wrong")], 401),
        (b"token=plain-key", [], None),
        (b"a=b&token=plain%2Dkey", [], None),
        (b"", shown, None),
    ):
        async with Socket(node, query=query, headers=headers) as socket:
            assert socket.denied_with == denied, (query, headers)


@pytest.mark.parametrize("path", ["/nowhere", "/api", "/api/", "/api/nothing", "/ws"])
async def test_what_is_not_routed_is_not_found(api: httpx.AsyncClient, path: str) -> None:
    answer = await api.get(path)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/dispatch", {"POST"}),
        ("DELETE", "/api/dispatch", {"POST"}),
        ("POST", "/api/clients", {"GET", "HEAD"}),
        ("PUT", "/api/health", {"GET", "HEAD"}),
        ("POST", "/openapi.json", {"GET", "HEAD"}),
    ],
)
async def test_another_method_is_not_allowed(api: httpx.AsyncClient, method: str, path: str, allowed: set[str]) -> None:
    answer = await api.request(method, path)
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})
    assert {m.strip() for m in answer.headers["Allow"].split(",")} == allowed


async def test_a_state_that_is_away_is_said_to_be_away(
    node: Node, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise StateUnavailable("Redis cannot be reached")

    monkeypatch.setattr(node.state.clients, "online_ids", away)
    answer = await api.get("/api/clients")
    assert answer.status_code == 503
    assert answer.json() == {"detail": "The cluster cannot serve this now: Redis cannot be reached"}
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("exc", [StateError("WRONGTYPE secret"), RuntimeError("secret"), KeyError("secret")], ids=repr)
async def test_our_own_mistakes_show_nothing_of_our_insides(
    node: Node, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, exc: Exception
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise exc

    monkeypatch.setattr(node.state.clients, "online_ids", broken)
    answer = await api.get("/api/clients")
    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal error"})


async def test_probes_tell_alive_from_ready(
    node: Node, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of Redis takes nodes out of the balancer; it restarts none of them."""
    assert (await api.get("/readyz")).json() == {"status": "ready"}
    assert (await api.get("/api/health")).json()["status"] == "healthy"

    async def away(*_: object) -> None:
        raise StateUnavailable("Redis cannot be reached")

    monkeypatch.setattr(node.state.connection, "ping", away)
    monkeypatch.setattr(node.state.clients, "online_ids", away)
    ready, health = await api.get("/readyz"), await api.get("/api/health")
    assert (ready.status_code, ready.json()["reason"]) == (503, "Redis cannot be reached")
    assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
    assert health.json()["node_id"] == node.node_id
    assert (await api.get("/livez")).text == "ok\n"


async def test_a_node_that_is_stopping_is_not_ready_and_takes_no_socket(node: Node, api: httpx.AsyncClient) -> None:
    node.begin_stop()
    answer = await api.get("/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "the node is shutting down")
    assert (await api.get("/livez")).status_code == 200
    async with Socket(node) as socket:
        assert socket.denied_with == 503


@pytest.mark.parametrize(("proto", "scheme"), [("https", "https"), ("gopher", "http")])
async def test_a_redirect_leads_to_where_the_client_of_the_proxy_is(node: Node, proto: str, scheme: str) -> None:
    async with rest(node) as api:
        answer = await api.get("/api/nodes/", headers={"X-Forwarded-Proto": proto})
        assert (answer.status_code, answer.headers["Location"]) == (307, f"{scheme}://localhost/api/nodes")
        assert "X-Request-ID" in answer.headers


@pytest.mark.parametrize("path", ["/livez", "/api/clients", "/api/clients/x", "/nowhere"])
async def test_a_node_that_leaves_keeps_no_connection(make_node: MakeNode, path: str) -> None:
    node = await make_node()
    async with rest(node) as api:
        assert "Connection" not in (await api.get(path)).headers
        node.drainer.begin()
        assert (await api.get(path)).headers["Connection"] == "close"
