"""One client id and two sockets, on real nodes: who holds it, how soon, and what becomes of the other."""

import asyncio
import contextlib
import time
from typing import Any

import pytest
from websockets.exceptions import WebSocketException

from devtools.proxy import Proxy
from tests.fault.devices import Agent
from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, Node, command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import eventually, stays
from tests.integration.harness.peers import Closed
from tests.integration.harness.ufo import Message, UfoDevice
from tests.support.features import RESUMING

pytestmark = pytest.mark.integration

HELD = "is already registered"
KEY = "s3cret-key"


class Resuming(UfoDevice):
    """A device that keeps the token of its registration and shows it at the next."""

    features = RESUMING

    def __init__(self, url: str, client_id: str, *, token: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(url, client_id, echoes=False, headers=headers)
        self.token = token

    def registration(self) -> Message:
        """With the token."""
        message = super().registration()
        assert message.metadata is not None
        if self.token is not None:
            message.metadata["resume_token"] = self.token
        return message

    async def register(self) -> None:
        """And keep the next one."""
        await super().register()
        self.token = self.heard[0]["result"]["resume_token"]


async def _refusal(node: Node, guests: Guests, client_id: str, **metadata: Any) -> tuple[str, Closed]:
    """A newcomer that is refused: what it is told, and how its socket ends."""
    peer = await guests.socket(node, client_id)
    await peer.send({"type": "register", "client_id": client_id, "metadata": metadata})
    answer = await peer.expect("error")
    return answer["error"], await peer.until_closed()


async def _holds(cluster: Cluster, node: Node, device: UfoDevice) -> None:
    """Registry and sockets agree that this device, on this node, holds its id; and tasks reach it."""
    node_id = await node.node_id()
    for asked in cluster.nodes:
        assert await asked.holder_of(device.client_id) == node_id
    await device.still_served()
    task = await cluster.a.dispatch(device.client_id, command("echo"))
    assert (await cluster.b.done(task["task_name"]))["state"] == "completed"


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same node", "another node"])
async def test_a_live_holder_keeps_its_id(own_cluster: MakeCluster, guests: Guests, *, elsewhere: bool) -> None:
    cluster = own_cluster(2, reconnect_grace_s=30)
    device = await guests.device(cluster.a)
    for _ in range(3):
        error, closed = await _refusal(cluster.nodes[elsewhere], guests, device.client_id, resume_token="a guess")
        assert HELD in error
        assert closed.code == 4009
    await _holds(cluster, cluster.a, device)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same node", "another node"])
async def test_a_holder_behind_a_cable_that_was_pulled_out_gives_way_to_anybody_within_seconds(
    own_cluster: MakeCluster, guests: Guests, *, elsewhere: bool
) -> None:
    """UFO's client gives up after about 30 s: waiting for the keep-alive would be too long."""
    cluster = own_cluster(2, reconnect_grace_s=30, ping_interval_s=600, ping_timeout_s=600)
    async with Proxy(cluster.a.process.port) as cable:
        old = await guests.register(UfoDevice(cable.ws_url, unique("device")))
        cable.hold()
        asked_at = time.monotonic()
        new = await guests.device(cluster.nodes[elsewhere], old.client_id)
        print(f"let in after {time.monotonic() - asked_at:.1f} s")
        await _holds(cluster, cluster.nodes[elsewhere], new)
        # What the old socket still has to say, it says to nobody.
        cable.mend()
        assert (await old.until_closed()).code in {4102, 1006}
        await _holds(cluster, cluster.nodes[elsewhere], new)


async def test_a_holder_that_is_stopped_gives_way_and_finds_itself_replaced(
    own_cluster: MakeCluster, guests: Guests, tmp_path: Any
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=30)
    agent = Agent(unique("agent"), tmp_path / "agent", cluster.a.ws_url)
    try:
        agent.launch()
        await agent.on(cluster.a)
        agent.freeze()
        new = await guests.device(cluster.b, agent.device_id)
        agent.thaw()
        await eventually(lambda: "must not share an id" in agent.log(), "the old process says why it was replaced")
        await stays(lambda: new.is_open, "the newer socket is not thrown out by the older process", for_s=3)
        await _holds(cluster, cluster.b, new)
    finally:
        agent.dispose()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same node", "another node"])
async def test_the_token_takes_over_from_a_live_socket_at_once(
    own_cluster: MakeCluster, guests: Guests, *, elsewhere: bool
) -> None:
    cluster = own_cluster(2, reconnect_grace_s=30)
    old = await guests.register(Resuming(cluster.a.ws_url, unique("device")))
    new = await guests.register(Resuming(cluster.nodes[elsewhere].ws_url, old.client_id, token=old.token))
    assert (await old.until_closed()).code == 4102
    await _holds(cluster, cluster.nodes[elsewhere], new)


async def test_the_shared_key_alone_never_takes_over_a_living_device(own_cluster: MakeCluster, guests: Guests) -> None:
    """An attacker who has the key that all share tries for far longer than it once took, through both nodes.

    It is sent nothing: no task, and none of the secrets that the node fills in for the device's tools.
    """
    secrets = '{"execute_command": {"api_key": "between operator and device"}}'
    cluster = own_cluster(2, reconnect_grace_s=30, api_key=KEY, tool_secrets=secrets, echo_wait_s=0)
    headers = {"X-API-Key": KEY}
    holder = await guests.register(UfoDevice(cluster.a.ws_url, unique("device"), headers=headers))
    answers: list[str] = []
    started_at = time.monotonic()
    while time.monotonic() - started_at < 15:
        attacker = UfoDevice(cluster.nodes[len(answers) % 2].ws_url, holder.client_id, headers=headers)
        await attacker.connect()
        await attacker.send(attacker.registration())
        answers.append((await attacker.first_answer())["type"])
        assert (await attacker.until_closed()).code == 4009
        await asyncio.sleep(0.2)
    assert set(answers) == {"error"}
    await holder.still_served()


async def test_a_thousand_racing_registrations_on_two_nodes_end_with_one_owner(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    """A third with the token, a third without, all at once; losers leave late, and touch nothing."""
    cluster = own_cluster(2, reconnect_grace_s=30, connect_rate_per_s=5000, connect_burst=5000)
    first = await guests.register(Resuming(cluster.a.ws_url, unique("device")))
    gate = asyncio.Semaphore(60)
    let_in: list[Resuming] = []
    everybody: list[Resuming] = []

    async def race(i: int) -> None:
        token = first.token if i % 3 == 0 else "a guess" if i % 3 == 1 else None
        peer = Resuming(cluster.nodes[i % 2].ws_url, first.client_id, token=token)
        everybody.append(peer)
        async with gate:
            with contextlib.suppress(OSError, WebSocketException):
                await peer.connect()
                await peer.send(peer.registration())
                if (await peer.first_answer(within_s=40))["type"] == "heartbeat":
                    let_in.append(peer)

    await asyncio.gather(*(race(i) for i in range(1_000)))

    async def one_is_open() -> list[Resuming]:
        open_ = [p for p in (first, *let_in) if p.is_open]
        return open_ if len(open_) == 1 else []

    owner = (await eventually(one_is_open, "one socket is open", within_s=30))[0]
    node = cluster.a if owner.url == cluster.a.ws_url else cluster.b
    print(f"{len(let_in)} of 1000 were let in one after the other")
    await _holds(cluster, node, owner)
    for peer in everybody:
        if peer is not owner:
            await peer.abort()
    await stays(lambda: owner.is_open, "late clean-ups leave the owner alone", for_s=1)
    await _holds(cluster, node, owner)
    lists = cluster.redis.key_names("aip:{node:*}:clients")
    assert len([k for k in lists if cluster.redis.topology.holder(k).client.hlen(k)]) == 1
    assert cluster.redis.immortal_keys() == []


async def test_no_token_is_to_be_found_in_redis_in_logs_or_over_rest(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(2, reconnect_grace_s=30, log_level="DEBUG")
    device = await guests.register(Resuming(cluster.a.ws_url, unique("device")))
    again = await guests.register(Resuming(cluster.b.ws_url, device.client_id, token=device.token))
    await again.abort()
    back = await guests.register(Resuming(cluster.a.ws_url, device.client_id, token=again.token))
    tokens = [peer.token for peer in (device, again, back)]
    assert all(tokens)
    await asyncio.sleep(0.5)
    seen = [(await cluster.b.get(p)).text for p in ("/api/clients?detail=1", f"/api/clients/{device.client_id}")]
    seen += [node.process.log() for node in cluster.nodes]
    for key in cluster.redis.key_names():
        client = cluster.redis.topology.holder(key).client
        kind = client.type(key)
        seen.append(str(client.hgetall(key) if kind == b"hash" else client.dump(key)))
        if kind == b"stream":
            seen.append(str(client.xrange(key)))
    for token in tokens:
        assert not [text[:200] for text in seen if str(token) in text]
