"""Overload is answered and never absorbed without bound; probes do not suffer. Beside limits: the same without."""

import asyncio
import contextlib
import socket

import pytest

from tests.fault.crowds import CONTINUATION, PING, PONG, TEXT, Herd, Raw, frame, memory_bytes, probed
from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Node, command, metric
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.integration

HERD = 2_000
HANG = command("hang")
ECHO = command("echo")


def refused(reason: str) -> str:
    return f'aip_refusals_total{{reason="{reason}"}}'


async def serves(node: Node, guests: Guests) -> None:
    """A device comes, and executes a task."""
    device = await guests.device(node)
    answer = await node.dispatch(device.client_id, ECHO)
    assert (await node.done(answer["task_name"]))["state"] == "completed"


# -- a herd ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("limited", [True, False], ids=["limited", "without the limit"])
async def test_a_herd_is_let_in_bit_by_bit_and_probes_never_fail(own_cluster: MakeCluster, limited: bool) -> None:
    # So few that the herd comes faster, however slowly a busy machine lets it come.
    cluster = own_cluster(1, connect_rate_per_s=150 if limited else 0, connect_burst=300)
    herd = Herd(cluster.a, HERD)
    try:
        async with probed(cluster.a) as failures:
            await herd.come()
        assert failures == []
        assert set(herd.names) <= set(await cluster.a.online())
        counted = await metric(cluster.a, refused("connect_rate"))
        assert counted == herd.turned_away
        # Without the limit all are let in at once, however long that keeps the node from everything else.
        assert (herd.turned_away > 0) == limited
    finally:
        await herd.leave()


async def test_more_sockets_than_a_node_bears_are_turned_away_and_come_in_when_others_leave(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(1, max_connections=3)
    first = await guests.device(cluster.a)
    for _ in range(2):
        await guests.device(cluster.a)
    herd = Herd(cluster.a, 1)
    fourth = asyncio.create_task(herd.come())

    async def turned_away() -> bool:
        return herd.turned_away > 0

    await eventually(turned_away, "the fourth is turned away")
    await first.abort()
    await asyncio.wait_for(fourth, 60)
    await herd.leave()


# -- those who say nothing, or little --------------------------------------------------------------------------------
async def test_sockets_that_never_register_leave_room_for_those_who_do(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(1, max_unregistered=50, register_timeout_s=6)
    device = await guests.device(cluster.a)
    async with contextlib.AsyncExitStack() as silent:
        strangers = [await silent.enter_async_context(Raw(cluster.a)) for _ in range(50)]
        await asyncio.gather(*(stranger.open() for stranger in strangers))
        late = await silent.enter_async_context(Raw(cluster.a))
        await late.say(late.upgrade())
        head = await late.head()
        assert b" 503 " in head
        assert b"retry-after:" in head.lower()
        await device.still_served()
        assert await metric(cluster.a, refused("unregistered")) == 1
        # The silent ones lose their places without having left.
        herd = Herd(cluster.a, 20)
        await herd.come()
        await herd.leave()


async def test_a_flood_of_registrations_is_stored_a_few_at_a_time_and_all_are(own_cluster: MakeCluster) -> None:
    cluster = own_cluster(1, max_registering=5)
    herd = Herd(cluster.a, 300)
    async with probed(cluster.a) as failures:
        await herd.come()
    assert failures == []
    assert herd.turned_away == 0
    assert len(set(herd.names) & set(await cluster.a.online())) == 300
    await herd.leave()


@pytest.mark.parametrize("limited", [True, False], ids=["limited", "without the limit"])
async def test_half_a_head_is_waited_for_only_so_long(own_cluster: MakeCluster, limited: bool) -> None:
    cluster = own_cluster(1, head_timeout_s=1 if limited else 600)
    async with contextlib.AsyncExitStack() as stack:
        halves = [await stack.enter_async_context(Raw(cluster.a)) for _ in range(30)]
        for number, half in enumerate(halves):
            # Nothing at all; a part of an upgrade; a part of a request.
            head = ("", half.upgrade()[:60], "POST /api/dispatch HTTP/1.1\r\nHost: x\r\n")[number % 3]
            await half.say(head)
        cut = await asyncio.gather(*(half.is_cut(within_s=PATIENCE_S if limited else 3) for half in halves))
        assert set(cut) == {limited}
        assert await metric(cluster.a, refused("head_timeout")) == (30 if limited else 0)


async def test_a_head_that_comes_byte_by_byte_does_not_get_more_time(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(1, head_timeout_s=1)
    async with Raw(cluster.a) as slow:

        async def trickle() -> None:
            with contextlib.suppress(OSError):
                while True:
                    await slow.say("GET /livez HTTP/1.1\r\nX: " if not trickled else "x")
                    trickled.append(1)
                    await asyncio.sleep(0.05)

        trickled: list[int] = []
        trickling = asyncio.create_task(trickle())
        assert await slow.is_cut(within_s=PATIENCE_S)
        trickling.cancel()
    await serves(cluster.a, guests)


async def test_on_a_connection_that_is_used_again_the_next_head_has_its_own_deadline(own_cluster: MakeCluster) -> None:
    cluster = own_cluster(1, head_timeout_s=5)
    async with Raw(cluster.a) as again:
        # Together longer than one head may take; each far from it.
        for _ in range(3):
            await asyncio.sleep(1.8)
            await again.say("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await again.head()
            assert await again.reader.readline() == b"ok\n"
        await again.say("GET /livez HTTP/1.1\r\nHos")
        assert await again.is_cut(within_s=PATIENCE_S)


async def test_a_head_without_end_is_refused(own_cluster: MakeCluster) -> None:
    cluster = own_cluster(1)
    async with Raw(cluster.a) as endless:
        await endless.say("GET /livez HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            for number in range(4_000):
                await endless.say(f"X-{number}: {'x' * 100}\r\n")
        assert await endless.is_cut(within_s=PATIENCE_S)
    assert await metric(cluster.a, refused("head_bytes")) == 1


async def test_an_upgrade_with_more_headers_than_are_taken_is_refused_and_does_not_hang(
    own_cluster: MakeCluster,
) -> None:
    cluster = own_cluster(1)
    async with Raw(cluster.a) as odd:
        await odd.say(odd.upgrade(*(f"X-{i}: {i}" for i in range(300))))
        assert b" 431 " in await odd.head()
        assert await odd.is_cut(within_s=PATIENCE_S)


async def test_strangers_who_hold_connections_make_room_for_probes_and_devices(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(1, max_connections=20, max_tcp_connections=40, head_timeout_s=600)
    device = await guests.device(cluster.a)
    async with contextlib.AsyncExitStack() as stack, probed(cluster.a) as failures:
        for _ in range(300):
            await stack.enter_async_context(Raw(cluster.a))
        await serves(cluster.a, guests)
        await device.still_served()
    assert failures == []
    assert await metric(cluster.a, refused("tcp_connections")) >= 200


# -- those who say too much ------------------------------------------------------------------------------------------
PACE = {"message_rate_per_s": 200, "message_burst": 400, "message_patience_s": 2}


async def flood(raw: Raw, data: bytes) -> None:
    """Say it again and again, as fast as the node takes it."""
    with contextlib.suppress(OSError):
        while True:
            await raw.say(data * 1_000)


async def pongs_until(raw: Raw, *, most: int) -> tuple[int, int | None]:
    """Reads until the node closes or `most` pongs have come. Returns their number, and the close code."""
    pongs = 0
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        while pongs < most:
            async with asyncio.timeout(30):
                opcode, payload = await raw.next_frame()
            if opcode == PONG:
                pongs += 1
            elif payload:
                return pongs, int.from_bytes(payload[:2])
    return pongs, None


@pytest.mark.parametrize("limited", [True, False], ids=["limited", "without the limit"])
async def test_a_flood_of_pings_is_slowed_and_then_closed(
    own_cluster: MakeCluster, guests: Guests, limited: bool
) -> None:
    cluster = own_cluster(1, **(PACE if limited else {"message_rate_per_s": 0}))
    device = await guests.device(cluster.a)
    async with Raw(cluster.a) as raw, probed(cluster.a) as failures:
        await raw.register(unique("flooder"))
        began = asyncio.get_running_loop().time()
        flooding = asyncio.create_task(flood(raw, frame(PING)))
        try:
            pongs, code = await pongs_until(raw, most=50_000)
        finally:
            flooding.cancel()
        took_s = asyncio.get_running_loop().time() - began
        if limited:
            assert code == 4103
            # One slice of what was read may be parsed beyond the pace.
            assert pongs <= 400 + 200 * took_s + 2 * 8 * 1024 / 6
            await device.still_served()
        else:
            # One peer keeps the node so busy that it may serve nobody else for seconds, and lose its lease.
            assert (pongs, code) == (50_000, None)
    assert not limited or failures == []
    assert await metric(cluster.a, refused("messages")) == int(limited)


async def test_pings_of_a_peer_that_reads_no_answer_fill_no_memory(own_cluster: MakeCluster) -> None:
    """With the pace switched off, so that it is not what helps."""
    cluster = own_cluster(1, message_rate_per_s=0)
    pings = frame(PING, b"x" * 125) * 8_000
    async with Raw(cluster.a) as raw:
        raw.writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await raw.register(unique("deaf"))
        before = memory_bytes(cluster.a)
        for _ in range(80):  # 80 MB
            await raw.say(pings)
        grown = memory_bytes(cluster.a) - before
    assert grown < 40_000_000


@pytest.mark.parametrize("kind", ["messages", "fragments", "pongs"])
async def test_a_flood_of_any_kind_is_slowed_and_then_closed(
    own_cluster: MakeCluster, guests: Guests, kind: str
) -> None:
    cluster = own_cluster(1, **PACE)
    device = await guests.device(cluster.a)
    name = unique("flooder")
    async with Raw(cluster.a) as raw:
        await raw.register(name)
        if kind == "fragments":
            await raw.say(frame(TEXT, b"{", final=False))
        data = {
            "messages": frame(TEXT, b'{"type":"heartbeat"}'),
            "fragments": frame(CONTINUATION, b" ", final=False),
            "pongs": frame(PONG),
        }[kind]
        flooding = asyncio.create_task(flood(raw, data))
        try:
            async with asyncio.timeout(60):
                assert await raw.close_code() == 4103
        finally:
            flooding.cancel()
    await device.still_served()

    async def gone() -> bool:
        return name not in await cluster.a.online()

    await eventually(gone, "the flooder is not registered any more")


async def test_a_burst_is_only_slowed_and_every_message_of_it_is_answered_in_order(
    own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(1, **PACE | {"message_patience_s": 60})
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.a, device.client_id)

    asked = [await galaxy.ask_for_device(device.client_id) for _ in range(1_200)]
    answered = [(await galaxy.expect("device_info_response", within_s=30))["response_id"] for _ in asked]

    assert answered == asked
    await galaxy.still_served()


# -- sessions --------------------------------------------------------------------------------------------------------
async def test_one_device_is_given_only_so_many_tasks_at_a_time(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(3, max_sessions_per_device=10)
    device = await guests.device(cluster.a)
    galaxy = await guests.constellation(cluster.b, device.client_id)

    answers = await asyncio.gather(*(cluster.nodes[i % 3].try_dispatch(device.client_id, HANG) for i in range(50)))
    accepted = [a.json()["session_id"] for a in answers if a.status_code == 200]
    others = [a for a in answers if a.status_code != 200]

    assert len(accepted) == 10
    assert {(a.status_code, a.headers["retry-after"]) for a in others} == {(429, "1")}
    assert all("max_sessions_per_device" in a.json()["detail"] for a in others)
    over_aip = await galaxy.task(HANG)
    end = await galaxy.expect("task_end", session_id=over_aip)
    assert end["status"] == "failed"
    assert "max_sessions_per_device" in end["error"]
    assert {s["session_id"] for s in await cluster.c.sessions_of(device.client_id)} == set(accepted)
    for session_id in accepted[:3]:
        await cluster.b.cancel(session_id)
    again = [(await cluster.c.try_dispatch(device.client_id, HANG)).status_code for _ in range(4)]
    assert again == [200, 200, 200, 429]


async def test_one_node_is_given_only_so_many_tasks_at_a_time(own_cluster: MakeCluster, guests: Guests) -> None:
    cluster = own_cluster(2, max_sessions_per_node=20)
    devices = [await guests.device(cluster.a) for _ in range(4)]
    elsewhere = await guests.device(cluster.b)

    async def full(node: Node) -> bool:
        for device in devices:
            answer = await node.try_dispatch(device.client_id, HANG)
            if answer.status_code == 429:
                assert "max_sessions_per_node" in answer.json()["detail"]
                return True
            # What a node has accepted and not heard of yet may come on top: so it has heard of each.
            await device.expect("command", session_id=answer.json()["session_id"])
        return False

    await eventually(lambda: full(cluster.a), "the node is full, seen from itself", within_s=30)
    assert await metric(cluster.a, 'aip_dispatches_total{outcome="accepted"}') == 20
    await eventually(lambda: full(cluster.b), "the node is full, seen from the other", within_s=30)
    assert (await cluster.a.try_dispatch(elsewhere.client_id, HANG)).status_code == 200
