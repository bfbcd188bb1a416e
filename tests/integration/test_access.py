"""The API key: without it nothing but probes is answered, no socket is opened, and no log ever shows it."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.harness.cluster import Cluster, Fleet, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.ufo import UfoDevice
from tests.support.redis_server import require_redis

pytestmark = pytest.mark.integration

KEY = "correct-horse-battery-staple"
GUARDED = ["/api/clients", "/api/sessions", "/api/nodes", "/api/task_result/x", "/api/clients/x", "/api/sessions/x"]
OPEN = ["/api/health", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs"]


@pytest.fixture(scope="module")
def guarded_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two nodes behind a key that log all they can."""
    require_redis()
    fleet = Fleet(tmp_path_factory.mktemp("guarded"), 2, api_key=KEY, log_level="DEBUG")
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.dispose()


@pytest.fixture
async def guarded(guarded_fleet: Fleet, http: httpx.AsyncClient) -> AsyncIterator[Cluster]:
    """The guarded nodes; whatever a test did, no log holds the key."""
    yield Cluster(guarded_fleet, http)
    for node in guarded_fleet.nodes:
        assert KEY not in node.log()


@pytest.mark.parametrize("key", [None, "", "wrong", KEY[:-1], KEY + "x", KEY.upper()])
async def test_rest_without_the_right_key_is_refused(
    guarded: Cluster, http: httpx.AsyncClient, key: str | None
) -> None:
    headers = {} if key is None else {"X-API-Key": key}
    for path in GUARDED:
        answer = await http.get(f"{guarded.a.process.url}{path}", headers=headers)
        assert (answer.status_code, set(answer.json())) == (401, {"detail"}), path
    answer = await guarded.a.post("/api/dispatch", {"client_id": "x", "request": "y"}, **headers)
    assert answer.status_code == 401


async def test_rest_does_not_take_the_key_from_the_address(guarded: Cluster) -> None:
    assert (await guarded.a.get("/api/clients", token=KEY)).status_code == 401


async def test_probes_need_no_key(guarded: Cluster) -> None:
    for path in OPEN:
        assert (await guarded.a.get(path)).status_code == 200, path


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", f"?token={KEY}x", f"?key={KEY}", "?token=%ff"])
async def test_a_socket_without_the_right_key_is_refused_before_the_upgrade(guarded: Cluster, query: str) -> None:
    stranger = UfoDevice(f"{guarded.a.ws_url}{query}", unique("stranger"))

    with pytest.raises(InvalidStatus) as refusal:
        await stranger.connect()

    assert refusal.value.response.status_code == 401


async def test_a_socket_with_a_wrong_key_in_its_header_is_refused_before_the_upgrade(guarded: Cluster) -> None:
    stranger = UfoDevice(guarded.a.ws_url, unique("stranger"), headers={"X-API-Key": "wrong"})

    with pytest.raises(InvalidStatus) as refusal:
        await stranger.connect()

    assert refusal.value.response.status_code == 401


async def test_with_the_key_a_task_runs_and_no_log_shows_it(
    guarded: Cluster, guests: Guests, http: httpx.AsyncClient
) -> None:
    as_ufo = await guests.register(UfoDevice(f"{guarded.a.ws_url}?token={KEY}", unique("ufo")))
    by_header = await guests.register(UfoDevice(guarded.b.ws_url, unique("ours"), headers={"X-API-Key": KEY}))

    for device in (as_ufo, by_header):
        body = {"client_id": device.client_id, "request": "do it", "commands": [command("echo", n=1)]}
        dispatched = await guarded.b.post("/api/dispatch", body, **{"X-API-Key": KEY})
        assert dispatched.status_code == 200
        done = await http.get(
            f"{guarded.a.process.url}/api/task_result/{dispatched.json()['task_name']}",
            params={"wait": 10},
            headers={"X-API-Key": KEY},
        )
        assert done.json()["state"] == "completed"
    await as_ufo.send(f"not JSON, but ?token={KEY}")
    await as_ufo.expect("error")
    await as_ufo.send({"type": "error", "error": f"cannot reach ws://host/ws?token={KEY}"})
    await as_ufo.still_served()

    assert "client registered" in guarded.a.process.log()
