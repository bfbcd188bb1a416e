"""Real nodes behind a real nginx: one is killed, one is emptied, the nodes change, one loses Redis; load goes on."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from devtools.proxy import Proxy
from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Node, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.nginx import Nginx
from tests.integration.harness.nodes import NodeProcess
from tests.integration.harness.patience import PATIENCE_S, SLACK, eventually
from tests.integration.harness.processes import free_port
from tests.integration.harness.redis_servers import needs_single_redis
from tests.integration.harness.ufo import UfoDevice

pytestmark = pytest.mark.integration

DRAIN = "api/nodes/self/drain"
SENDERS = 6
MakeNginx = Callable[..., Nginx]


@pytest.fixture
def make_nginx(tmp_path: Path) -> Iterator[MakeNginx]:
    """Puts nginx before nodes."""
    made: list[Nginx] = []

    def make(*nodes: Node, **options: object) -> Nginx:
        directory = tmp_path / "nginx"
        directory.mkdir()
        made.append(Nginx(directory, addresses(*nodes), **options))
        made[-1].start()
        return made[-1]

    yield make
    for nginx in made:
        nginx.dispose()


def addresses(*nodes: Node) -> list[str]:
    return [f"127.0.0.1:{node.process.port}" for node in nodes]


def as_node(nginx: Nginx, http: httpx.AsyncClient) -> Node:
    """The cluster as seen through nginx: it has a URL, too."""
    return Node(cast(NodeProcess, nginx), http)


class Load:
    """Tasks that several senders dispatch one after another, each on a connection of its own, until told to stop."""

    def __init__(self, url: str, devices: list[UfoDevice]) -> None:
        self._url = url
        self._devices = devices
        self._stop = False
        self.answers: Counter[int] = Counter()
        self.accepted: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as senders:
            for number in range(SENDERS):
                senders.create_task(self._send(number))
            try:
                yield
            finally:
                self._stop = True

    async def goes_on(self, count: int = 40) -> None:
        """Wait until so many more have been accepted."""
        wanted = len(self.accepted) + count
        await eventually(lambda: len(self.accepted) >= wanted, f"{count} more tasks are accepted", within_s=30)

    async def all_done_once(self, node: Node) -> None:
        """What was accepted has completed, and nothing was carried out twice."""
        for name in self.accepted:
            assert (await node.done(name))["state"] == "completed"
        executed = [action["parameters"]["token"] for device in self._devices for action in device.executed]
        assert len(executed) == len(set(executed))
        assert set(self.accepted) <= set(executed)

    async def _send(self, number: int) -> None:
        # No connection is kept: nginx closes idle ones when it is reloaded, and its client may be sending just then.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=45.0, limits=limits, trust_env=False) as http:
            while not self._stop:
                token = unique("token")
                device = self._devices[(number + sum(self.answers.values())) % len(self._devices)]
                body = {
                    "client_id": device.client_id,
                    "request": "do as told",
                    "task_name": token,
                    "commands": [command("echo", token=token)],
                }
                answer = await http.post(f"{self._url}/api/dispatch", json=body)
                self.answers[answer.status_code] += 1
                if answer.status_code == 200:
                    self.accepted.append(token)
                await asyncio.sleep(0.005)


async def test_a_node_that_is_killed_costs_no_task_that_was_accepted_and_none_runs_twice(
    own_cluster: MakeCluster, make_nginx: MakeNginx, guests: Guests
) -> None:
    cluster = own_cluster(3)
    nginx = make_nginx(*cluster.nodes)
    load = Load(nginx.url, [await guests.device(node) for node in (cluster.b, cluster.c) for _ in range(2)])
    async with load.running():
        await load.goes_on()
        cluster.a.process.kill()
        await load.goes_on(80)

    # Of those that were on their way to the node when it died nobody knows what came of them: at most one a sender.
    assert set(load.answers) <= {200, 502}
    assert load.answers[502] <= SENDERS
    await load.all_done_once(cluster.b)


async def test_a_node_that_is_emptied_by_an_operator_and_stopped_costs_no_request(
    own_cluster: MakeCluster, make_nginx: MakeNginx, guests: Guests, http: httpx.AsyncClient
) -> None:
    cluster = own_cluster(2)
    admin = free_port()
    nginx = make_nginx(*cluster.nodes, admin_listen=f"127.0.0.1:{admin}")
    drain = f"http://127.0.0.1:{admin}/nodes/{addresses(cluster.a)[0]}/{DRAIN}"
    load = Load(nginx.url, [await guests.device(cluster.b) for _ in range(2)])
    leaving = await guests.device(cluster.a)
    async with load.running():
        await load.goes_on()
        assert (await http.post(drain)).status_code == 202
        assert (await leaving.until_closed()).code == 1012
        # It finds a place through nginx, which offers it to the other node.
        again = await guests.device(as_node(nginx, http), leaving.client_id)
        assert await cluster.b.holder_of(again.client_id) == await cluster.b.node_id()
        await load.goes_on()
        assert (await http.get(drain)).json()["done"]
        assert await asyncio.to_thread(cluster.a.process.stop) == 0
        await load.goes_on()

    assert set(load.answers) == {200}
    await load.all_done_once(cluster.b)


async def test_a_reload_with_other_nodes_cuts_no_socket_and_fails_no_request(
    own_cluster: MakeCluster, make_nginx: MakeNginx, guests: Guests, http: httpx.AsyncClient
) -> None:
    cluster = own_cluster(3)
    a, b, c = cluster.nodes
    nginx = make_nginx(a, b)
    front = as_node(nginx, http)
    devices = [await guests.device(front) for _ in range(4)]
    waiting = await front.dispatch(devices[0].client_id, command("hang"))
    load = Load(nginx.url, devices[1:])
    async with load.running():
        await load.goes_on()
        reader = asyncio.create_task(front.get(f"/api/task_result/{waiting['task_name']}", wait=30))
        told: list[str] = []
        listener = asyncio.create_task(listen(f"{nginx.url}/api/sessions/{waiting['session_id']}/events", told))
        await eventually(lambda: told, "the stream of events begins, though it has not ended")
        await nginx_knows(front, {a, b})
        await asyncio.to_thread(nginx.reload, addresses(b, c))
        await load.goes_on()
        await nginx_knows(front, {b, c})
        for device in devices:
            await device.still_served()
        # Also whoever has been waiting for an answer since before the reload gets it.
        await c.cancel(waiting["session_id"])
        assert (await reader).json()["state"] == "cancelled"
        await asyncio.wait_for(listener, PATIENCE_S * SLACK)
        assert "cancelled" in told[-1]

    assert set(load.answers) == {200}
    assert all(device.is_open for device in devices)
    await load.all_done_once(c)


async def listen(url: str, told: list[str]) -> None:
    """Puts what a stream of events says into `told`, as it comes, until it ends."""
    async with (
        httpx.AsyncClient(timeout=45.0, trust_env=False) as http,
        http.stream("GET", url) as stream,
    ):
        async for line in stream.aiter_lines():
            if line.startswith("data:"):
                told.append(line)


async def nginx_knows(front: Node, nodes: set[Node]) -> None:
    """Waits until requests reach these nodes, each of them and no other."""
    expected = {await node.node_id() for node in nodes}

    async def reached() -> set[str]:
        async with httpx.AsyncClient(trust_env=False) as http:
            answers = [await http.get(f"{front.process.url}/api/health") for _ in range(12)]
        return {str(answer.json()["node_id"]) for answer in answers}

    async def settled() -> bool:
        return await reached() == expected

    await eventually(settled, "requests reach the nodes that nginx was given, and only those")


@needs_single_redis("The proxy stands before one server; where there are several, a node goes past it.")
async def test_a_node_without_redis_is_alive_not_ready_and_passed_over(
    own_cluster: MakeCluster, make_nginx: MakeNginx, guests: Guests, http: httpx.AsyncClient
) -> None:
    cluster = own_cluster(1)
    async with Proxy(cluster.redis.port) as hole:
        # It alone gives up soon: the other is to serve whatever the machine is busy with.
        soon = {"lease_ttl_s": 3, "lease_renew_s": 0.75, "redis_timeout_s": 1}
        cut = cluster.launch_another("node-cut", redis_url=hole.redis_url, **soon)
        await cluster.all_ready()
        nginx = make_nginx(*cluster.nodes)
        front = as_node(nginx, http)
        device = await guests.device(cluster.a)
        stays = await guests.device(cut)
        pid = cut.process.pid
        await nginx_knows(front, {cluster.a, cut})

        hole.swallow()
        await eventually(lambda: refuses_sockets(cut, guests), "the node knows that its lease is void")
        tokens = [unique("token") for _ in range(6)]
        for token in tokens:
            assert (await cut.get("/livez")).status_code == 200
            assert (await cut.get("/readyz")).status_code == 503
            # What may be repeated is answered by the other node, whichever is asked first.
            assert (await front.get("/readyz")).status_code == 200
            assert (await front.get("/api/clients")).status_code == 200
            await accepted_at_last(front, device, token)
        # A newcomer is not let in by a node that could not register it.
        for _ in range(3):
            newcomer = await guests.device(front)
            assert await cluster.a.holder_of(newcomer.client_id) == await cluster.a.node_id()
        for token in tokens:
            assert (await front.done(token))["state"] == "completed"
        assert [action["parameters"]["token"] for action in device.executed] == tokens
        assert cut.process.pid == pid
        assert stays.is_open

        hole.stop_swallowing()
        await cluster.all_ready(within_s=20)
        await nginx_knows(front, {cluster.a, cut})
        assert cut.process.pid == pid


async def refuses_sockets(node: Node, guests: Guests) -> bool:
    try:
        await guests.socket(node)
    except InvalidStatus as exc:
        return exc.response.status_code == 503 and "lost the cluster" in str(exc.response.body)
    return False


async def accepted_at_last(front: Node, device: UfoDevice, token: str) -> None:
    """A dispatch under a key, sent again whenever it is refused, as a caller is told to."""
    body = {
        "client_id": device.client_id,
        "request": "do as told",
        "task_name": token,
        "commands": [command("echo", token=token)],
    }

    async def accepted() -> bool:
        answer = await front.post("/api/dispatch", body, **{"Idempotency-Key": token})
        assert answer.status_code in {200, 503}, answer.text
        assert answer.status_code == 200 or int(answer.headers["retry-after"]) > 0
        return answer.status_code == 200

    await eventually(accepted, "the task is accepted")


async def test_a_result_of_any_size_gets_through_nginx(
    own_cluster: MakeCluster, make_nginx: MakeNginx, http: httpx.AsyncClient, guests: Guests
) -> None:
    cluster = own_cluster(1)
    front = as_node(make_nginx(cluster.a), http)
    device = await guests.device(front)
    for size, state in ((15 * 1024 * 1024, "completed"), (90 * 1024 * 1024, "failed")):
        answer = await front.dispatch(device.client_id, command("big", size=size), timeout_s=60)
        done = await front.done(answer["task_name"], wait_s=30)
        assert done["state"] == state, done["error"]
    assert done["error"].startswith("result too large: ")
    await device.still_served()
