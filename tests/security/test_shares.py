"""One address has its share of what a node bears, and everybody else is served as before.

The attacker is at 127.0.0.2, others at 127.0.0.3: neither is a proxy that the node trusts.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import orjson
import pytest

from tests.integration.harness.nodes import NodeProcess
from tests.support.wait import PATIENCE_S, until

ATTACKER, OTHER, PROXY = "127.0.0.2", "127.0.0.3", "127.0.0.1"
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
NO_BODY_YET = "Content-Type: application/json\r\nContent-Length: 10\r\n"

StartNode = Callable[..., NodeProcess]


class Peer:
    """A TCP connection from one address, over which one request is sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def ask(self, head: str, body: bytes = b"") -> None:
        """Send a request."""
        self.writer.write(f"{head.rstrip()}\r\nHost: localhost\r\n\r\n".encode() + body)
        await self.writer.drain()

    async def status(self) -> int:
        """The status of the answer; 0 if the connection was cut."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                self.head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        except (OSError, asyncio.IncompleteReadError):
            return 0
        return int(self.head.split()[1])

    async def body(self) -> dict[str, str]:
        """The JSON of the answer, after its head."""
        length = int(self.head.partition("content-length: ")[2].partition("\r\n")[0])
        said: dict[str, str] = orjson.loads(await self._reader.readexactly(length))
        return said


class Peers:
    """Opens connections to one node; closes them at the end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: list[Peer] = []

    async def ask(self, address: str, head: str, body: bytes = b"") -> Peer:
        """Connect from `address` and send a request."""
        streams = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(address, 0))
        self._open.append(Peer(*streams))
        await self._open[-1].ask(head, body)
        return self._open[-1]

    async def status(self, address: str, head: str, body: bytes = b"") -> int:
        """The status of the answer to a request."""
        return await (await self.ask(address, head, body)).status()

    async def answers(self, peers: list[Peer], *, refused: int) -> list[Peer]:
        """Those of `peers` that were refused, of which there are so many."""
        waiting = {asyncio.create_task(peer.status()): peer for peer in peers}
        done: set[asyncio.Task[int]] = set()
        async with asyncio.timeout(PATIENCE_S):
            while len(done) < refused:
                more, _ = await asyncio.wait(waiting.keys() - done, return_when=asyncio.FIRST_COMPLETED)
                done |= more
        for task in waiting.keys() - done:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return [waiting[task] for task in done]

    async def close(self) -> None:
        """Close everything."""
        for peer in self._open:
            peer.writer.transport.abort()
        self._open.clear()


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    """Starts one node, with a quarter for each address as by default."""
    started: list[NodeProcess] = []

    def start(**settings: object) -> NodeProcess:
        node = NodeProcess("node", tmp_path, **{"redis_url": "embedded://", "address_share": 0.25} | settings)
        started.append(node)
        node.launch()
        node.wait_until("/readyz")
        return node

    yield start
    for node in started:
        node.dispose()


@pytest.fixture
async def opened() -> AsyncIterator[list[Peers]]:
    """What a test opens is closed."""
    everybody: list[Peers] = []
    yield everybody
    for peers in everybody:
        await peers.close()


async def _told_when_to_come_back(peer: Peer, setting: str) -> None:
    assert " 429 " in peer.head.partition("\r\n")[0]
    assert "retry-after: " in peer.head
    assert f"address_share of {setting}" in (await peer.body())["detail"]


async def test_a_thousand_posts_without_their_bodies_leave_places_to_others(
    start_node: StartNode, opened: list[Peers]
) -> None:
    peers = Peers(start_node().port)
    opened.append(peers)
    held = [await peers.ask(ATTACKER, f"POST /api/dispatch HTTP/1.1\r\n{NO_BODY_YET}") for _ in range(1000)]
    refused = await peers.answers(held, refused=750)
    for peer in refused:
        await _told_when_to_come_back(peer, "max_requests")
    assert await peers.status(OTHER, "GET /api/clients HTTP/1.1") == 200
    assert await peers.status(ATTACKER, "GET /api/clients HTTP/1.1") == 429
    assert await peers.status(ATTACKER, "GET /readyz HTTP/1.1") == 200, "probes are not counted"
    metrics = await peers.ask(OTHER, "GET /metrics HTTP/1.1\r\nConnection: close")
    assert b'aip_refusals_total{reason="address_share"} 751.0' in await metrics._reader.read()


async def _session(peers: Peers) -> str:
    task = orjson.dumps(
        {"client_id": "nobody", "request": "do it", "commands": [{"tool_name": "t"}], "queue_if_offline": True}
    )
    head = f"POST /api/dispatch HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(task)}"
    answer = await peers.ask(OTHER, head, task)
    assert await answer.status() == 200
    return (await answer.body())["session_id"]


async def test_a_thousand_event_streams_leave_others_theirs(start_node: StartNode, opened: list[Peers]) -> None:
    peers = Peers(start_node().port)
    opened.append(peers)
    head = f"GET /api/sessions/{await _session(peers)}/events HTTP/1.1"
    statuses = [await peers.status(ATTACKER, head) for _ in range(1000)]
    assert (statuses.count(200), statuses.count(429)) == (250, 750)
    assert await peers.status(OTHER, head) == 200
    await peers.close()

    async def again() -> bool:
        return await peers.status(ATTACKER, head) == 200

    await until(again, "places of streams that ended are free")


async def test_requests_that_wait_leave_places_to_others(start_node: StartNode, opened: list[Peers]) -> None:
    peers = Peers(start_node(max_waiters=8).port)
    opened.append(peers)
    head = f"GET /api/task_result/{await _session(peers)}?wait=60 HTTP/1.1"
    held = [await peers.ask(ATTACKER, head) for _ in range(8)]
    for peer in await peers.answers(held, refused=6):
        await _told_when_to_come_back(peer, "max_waiters")


async def test_sockets_that_never_register_leave_places_to_others(start_node: StartNode, opened: list[Peers]) -> None:
    peers = Peers(start_node(max_unregistered=40).port)
    opened.append(peers)
    statuses = [await peers.status(ATTACKER, f"GET /ws HTTP/1.1\r\n{UPGRADE}") for _ in range(40)]
    assert statuses == [101] * 10 + [429] * 30
    assert await peers.status(OTHER, f"GET /ws HTTP/1.1\r\n{UPGRADE}") == 101


@pytest.mark.parametrize(("head", "status"), [("GET /livez HTTP/1.1", 200), (f"GET /ws HTTP/1.1\r\n{UPGRADE}", 101)])
async def test_connections_leave_room_for_those_of_others(
    start_node: StartNode, opened: list[Peers], head: str, status: int
) -> None:
    peers = Peers(start_node(max_connections=39, max_tcp_connections=40, max_unregistered=400).port)
    opened.append(peers)
    statuses = [await peers.status(ATTACKER, head) for _ in range(40)]
    assert statuses == [status] * 10 + [0] * 30
    assert await peers.status(OTHER, head) == status
    await peers.close()

    async def again() -> bool:
        return await peers.status(ATTACKER, head) == status

    await until(again, "places of connections that were closed are free")


async def test_behind_a_trusted_proxy_shares_are_those_of_its_clients(
    start_node: StartNode, opened: list[Peers]
) -> None:
    peers = Peers(start_node(max_unregistered=8, max_connections=39, max_tcp_connections=40).port)
    opened.append(peers)

    async def socket(client: str) -> int:
        return await peers.status(PROXY, f"GET /ws HTTP/1.1\r\n{UPGRADE}X-Forwarded-For: {client}")

    assert [await socket("198.51.100.7") for _ in range(3)] == [101, 101, 429]
    assert [await socket("198.51.100.8") for _ in range(3)] == [101, 101, 429]
    # A client that names another gains nothing.
    claimed = f"GET /ws HTTP/1.1\r\n{UPGRADE}X-Forwarded-For: 203.0.113.1"
    assert [await peers.status(ATTACKER, claimed) for _ in range(3)] == [101, 101, 429]
    # The proxy itself speaks for many: its connections are not counted.
    assert [await peers.status(PROXY, "GET /livez HTTP/1.1") for _ in range(15)] == [200] * 15
