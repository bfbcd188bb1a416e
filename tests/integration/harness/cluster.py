"""Servers put together, and a node as its users see it.

A `Fleet` is processes and lives as long as its fixture; a `Cluster` is one test's view of a fleet, with an HTTP client
of that test's event loop.
"""

from pathlib import Path
from typing import Any

import httpx

from tests.integration.harness.nodes import NodeProcess
from tests.integration.harness.patience import PATIENCE_S, vanishes
from tests.integration.harness.redis_servers import RedisServers

__all__ = ["Cluster", "Fleet", "Json", "Node", "command", "metric"]

Json = dict[str, Any]
# What a broken socket means at once is what most tests ask; those of `tests/fault` give clients time to come back.
NO_GRACE = {"reconnect_grace_s": 0}


def command(tool_name: str, **parameters: object) -> Json:
    """A command as a dispatch gives it."""
    return {"tool_name": tool_name, "parameters": parameters}


class Fleet:
    """A Redis (by `AIP_TEST_REDIS`, unless given) and `count` nodes, named node-a, node-b, …"""

    def __init__(self, directory: Path, count: int, redis: RedisServers | None = None, /, **settings: object) -> None:
        self.directory = directory
        self.settings = settings
        self.redis = redis or RedisServers(directory / "redis")
        self.nodes = [self.new_node(f"node-{chr(ord('a') + i)}") for i in range(count)]

    def new_node(self, name: str, **settings: object) -> NodeProcess:
        """A node of this fleet, not started yet."""
        given = {"redis_url": self.redis.url, **NO_GRACE, **self.settings, **settings}
        return NodeProcess(name, self.directory, **given)

    def start(self) -> None:
        """Start everything and wait until it is ready."""
        self.redis.start()
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_until("/readyz")

    def dispose(self) -> None:
        """End everything."""
        for node in self.nodes:
            node.dispose()
        self.redis.dispose()


class Node:
    """A node over REST. Methods that name an outcome fail the test if the answer is another."""

    def __init__(self, process: NodeProcess, http: httpx.AsyncClient) -> None:
        self.process = process
        self._http = http
        self.ws_url = process.ws_url

    async def get(self, path: str, **params: str | float) -> httpx.Response:
        """GET, whatever the answer."""
        return await self._http.get(f"{self.process.url}{path}", params=params or None)

    async def post(self, path: str, body: Json | None = None, **headers: str) -> httpx.Response:
        """POST, whatever the answer."""
        return await self._http.post(f"{self.process.url}{path}", json=body, headers=headers)

    async def try_dispatch(self, client_id: str, *commands: Json, **fields: object) -> httpx.Response:
        """POST /api/dispatch, whatever the answer."""
        body: Json = {"client_id": client_id, "request": "do as told", **fields}
        if commands:
            body["commands"] = list(commands)
        return await self.post("/api/dispatch", body)

    async def dispatch(self, client_id: str, *commands: Json, **fields: object) -> Json:
        """Dispatch a task; it is accepted."""
        return accepted(await self.try_dispatch(client_id, *commands, **fields))

    async def result(self, task_name: str, *, wait_s: float = PATIENCE_S) -> Json:
        """The result of a task as it is after `wait_s` at most."""
        return accepted(await self.get(f"/api/task_result/{task_name}", wait=wait_s))

    async def done(self, task_name: str, *, wait_s: float = PATIENCE_S) -> Json:
        """The result of a task, which ends within `wait_s`."""
        result = await self.result(task_name, wait_s=wait_s)
        assert result["status"] == "done", f"the task has not ended: {result}"
        return result

    async def session(self, session_id: str) -> Json:
        """A session that exists."""
        return accepted(await self.get(f"/api/sessions/{session_id}"))

    async def state_of(self, session_id: str) -> str:
        """The state of a session that exists."""
        return str((await self.session(session_id))["state"])

    async def sessions_of(self, client_id: str) -> list[Json]:
        """The sessions of a device, newest first."""
        listed: list[Json] = accepted(await self.get("/api/sessions", client_id=client_id))["sessions"]
        return listed

    async def cancel(self, session_id: str) -> Json:
        """Cancel a session that exists."""
        return accepted(await self.post(f"/api/sessions/{session_id}/cancel"))

    async def online(self) -> list[str]:
        """Ids of all connected clients."""
        ids: list[str] = accepted(await self.get("/api/clients"))["online_clients"]
        return ids

    async def holder_of(self, client_id: str) -> str | None:
        """The node that holds a client, None if nobody does."""
        answer = await self.get(f"/api/clients/{client_id}")
        if answer.status_code == 404:
            return None
        return str(accepted(answer)["node_id"])

    async def node_id(self) -> str:
        """The id of this start of the node."""
        return str((await self.get("/api/health")).json()["node_id"])

    async def unready(self) -> str:
        """Why the node is not ready, '' if it is."""
        try:
            answer = await self.get("/readyz")
        except httpx.TransportError as exc:
            return f"it does not answer: {exc!r}"
        return "" if answer.status_code == 200 else answer.text

    async def nodes(self) -> list[str]:
        """Ids of the live nodes."""
        return [n["node_id"] for n in accepted(await self.get("/api/nodes"))["nodes"]]


class Cluster:
    """A fleet in the hands of one test: `a`, `b`, `c` are its first nodes."""

    def __init__(self, fleet: Fleet, http: httpx.AsyncClient) -> None:
        self.fleet = fleet
        self.redis = fleet.redis
        self._http = http
        self.nodes = [Node(process, http) for process in fleet.nodes]

    @property
    def a(self) -> Node:
        """The first node."""
        return self.nodes[0]

    @property
    def b(self) -> Node:
        """The second node."""
        return self.nodes[1]

    @property
    def c(self) -> Node:
        """The third node."""
        return self.nodes[2]

    async def all_ready(self, *, within_s: float = PATIENCE_S) -> None:
        """Wait until every node is ready."""

        async def unready() -> dict[str, str]:
            reasons = {node.process.name: await node.unready() for node in self.nodes}
            return {name: reason for name, reason in reasons.items() if reason}

        await vanishes(unready, "every node is ready", within_s=within_s)

    def launch_another(self, name: str, **settings: object) -> Node:
        """Start one more node; returns at once."""
        process = self.fleet.new_node(name, **settings)
        self.fleet.nodes.append(process)
        process.launch()
        self.nodes.append(Node(process, self._http))
        return self.nodes[-1]


async def metric(node: Node, name: str) -> float:
    """A sample of the node's metrics, by name and labels as they are written; of several, the sum; 0 without any."""
    samples = (line.rpartition(" ") for line in (await node.get("/metrics")).text.splitlines())
    return sum(float(value) for sample, _, value in samples if sample == name or sample.startswith(f"{name}{{"))


def accepted(answer: httpx.Response) -> Json:
    """The body of an answer that is 200."""
    assert answer.status_code == 200, f"{answer.request.method} {answer.request.url}: {answer.text}"
    body: Json = answer.json()
    return body
