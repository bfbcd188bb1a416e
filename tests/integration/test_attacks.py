"""What strangers and broken peers try: foreign pages, frames that cost more than they say, readers that never read."""

import asyncio
import json
import socket
from urllib.parse import urlsplit

import pytest
import websockets

from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import eventually

pytestmark = pytest.mark.integration

FOREIGN = "https://evil.example"


async def test_a_page_of_another_origin_opens_no_socket(cluster: Cluster) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        async with websockets.connect(cluster.a.ws_url, origin=websockets.Origin(FOREIGN), proxy=None):
            pass
    assert refused.value.response.status_code == 403


async def test_a_page_of_the_nodes_own_address_does(cluster: Cluster) -> None:
    own = f"http://{urlsplit(cluster.a.ws_url).netloc}"
    async with websockets.connect(cluster.a.ws_url, origin=websockets.Origin(own), proxy=None):
        pass


async def test_a_page_that_the_operator_named_does(own_cluster: MakeCluster) -> None:
    cluster = own_cluster(1, allowed_origins=f"https://other.example, {FOREIGN}")
    async with websockets.connect(cluster.a.ws_url, origin=websockets.Origin(FOREIGN), proxy=None):
        pass


async def test_frames_of_millions_of_lists_from_strangers_stop_nobody(cluster: Cluster, guests: Guests) -> None:
    """Parsed, each would take seconds, and a node that is busy for seconds loses its lease."""
    frame = "[" + "[]," * 2_000_000 + "[]]"
    strangers = [await guests.socket(cluster.a) for _ in range(6)]
    device = await guests.device(cluster.a)
    # They are closed in the midst of it.
    await asyncio.gather(*(s.send(frame) for s in strangers), return_exceptions=True)
    answer = await cluster.b.dispatch(device.client_id, command("echo", text="alive"))
    assert (await cluster.c.done(answer["task_name"]))["state"] == "completed"
    for stranger in strangers:
        assert (await stranger.until_closed()).code == 1009
    assert (await cluster.a.get("/readyz")).status_code == 200


async def test_a_reader_that_never_reads_is_cut_and_may_come_back(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(1, send_queue_bytes=100_000, max_request_bytes=100_000)
    name = unique("deaf")
    at = urlsplit(cluster.a.ws_url)
    with socket.create_connection((at.hostname, at.port)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {at.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        # Not before the answer: what comes with the upgrade is not part of the socket yet.
        assert b"101" in await asyncio.to_thread(raw.recv, 1024)

        def text(message: dict[str, object]) -> bytes:
            body = json.dumps(message).encode()
            head = bytes([0x81, 0x80 | 126]) + len(body).to_bytes(2, "big")
            return head + b"\0\0\0\0" + body

        features = {"system_info": {"supported_features": ["autonomous"]}}
        raw.sendall(text({"type": "register", "client_id": name, "metadata": features, "request": "x" * 200}))

        async def online() -> bool:
            return name in (await cluster.a.get("/api/clients")).json()["online_clients"]

        await eventually(online, "it is registered")
        for _ in range(60):
            await cluster.a.try_dispatch(name, request="x" * 100_000)

        async def gone() -> bool:
            return not await online()

        await eventually(gone, "it is cut", within_s=20)
    device = await guests.device(cluster.a, name)
    assert device.client_id == name


async def test_a_session_that_others_ended_while_its_node_was_frozen_ends_at_its_device(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(2)
    device = await guests.device(cluster.a, answers=False)
    answer = await cluster.b.dispatch(device.client_id, command("echo", text="x"))
    await device.expect("command")
    cluster.a.process.freeze()
    try:

        async def settled() -> bool:
            state = (await cluster.b.session(answer["session_id"]))["state"]
            return bool(state == "cancelled")

        await eventually(settled, "the session is cancelled", within_s=15)
    finally:
        cluster.a.process.thaw()
    end = await device.expect("task_end", session_id=answer["session_id"])
    assert end["status"] == "failed"


async def test_what_a_stop_could_not_settle_is_left_to_the_others(own_cluster: MakeCluster, guests: Guests) -> None:
    """Redis is silent while the node stops: its lease must stay behind, so that its sessions are found."""
    cluster = own_cluster(2, drain_deadline_s=2, shutdown_timeout_s=4, redis_timeout_s=1)
    device = await guests.device(cluster.a, answers=False)
    answer = await cluster.b.dispatch(device.client_id, command("echo", text="x"))
    await device.expect("command")
    cluster.redis.freeze()
    try:
        await asyncio.to_thread(cluster.a.process.stop)
    finally:
        cluster.redis.thaw()

    async def settled() -> bool:
        found = await cluster.b.get(f"/api/sessions/{answer['session_id']}")
        return found.status_code == 200 and found.json()["state"] == "cancelled"

    await eventually(settled, "the session is cancelled", within_s=20)
