"""The hub: one socket per client, and one thing at a time with each client."""

import asyncio

import pytest

from node.connections.connection import Connection, Message
from node.connections.hub import Hub
from node.telemetry.metrics import Metrics
from tests.support.wait import until


async def _nowhere(message: Message) -> None:
    """A socket that takes everything."""


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def hub(metrics: Metrics) -> Hub:
    return Hub(metrics)


def _socket(metrics: Metrics, client_id: str = "device-1") -> Connection:
    connection = Connection(_nowhere, metrics=metrics, queue_bound=1_000)
    connection.client_id = client_id
    return connection


def _gauge(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("aip_connections", {"client_type": "device"})


def test_a_socket_that_was_added_is_found(hub: Hub, metrics: Metrics) -> None:
    socket = _socket(metrics)
    assert hub.get("device-1") is None
    assert hub.put(socket) is None
    assert hub.get("device-1") is socket
    assert (len(hub), list(hub), _gauge(metrics)) == (1, [socket], 1)


def test_a_second_socket_of_a_client_takes_the_place_of_the_first(hub: Hub, metrics: Metrics) -> None:
    first, second = _socket(metrics), _socket(metrics)
    assert hub.put(first) is None
    assert hub.put(second) is first
    assert hub.get("device-1") is second
    assert _gauge(metrics) == 1


def test_a_socket_that_gave_way_cannot_remove_the_one_that_is_held(hub: Hub, metrics: Metrics) -> None:
    first, second = _socket(metrics), _socket(metrics)
    hub.put(first)
    hub.put(second)
    assert not hub.remove(first)
    assert hub.get("device-1") is second
    assert _gauge(metrics) == 1


def test_removing_twice_counts_once(hub: Hub, metrics: Metrics) -> None:
    socket = _socket(metrics)
    hub.put(socket)
    assert hub.remove(socket)
    assert not hub.remove(socket)
    assert (len(hub), _gauge(metrics)) == (0, 0)


def test_sockets_may_come_and_go_while_the_hub_is_walked_through(hub: Hub, metrics: Metrics) -> None:
    for i in range(10):
        hub.put(_socket(metrics, f"d{i}"))
    for socket in hub:
        hub.remove(socket)
        hub.put(_socket(metrics, f"new-{socket.client_id}"))
    assert len(hub) == 10


async def test_what_is_done_to_one_client_is_done_one_after_another(hub: Hub) -> None:
    inside, most = 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with hub.lock("device-1"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(50)))
    assert most == 1


async def test_clients_do_not_wait_for_each_other(hub: Hub) -> None:
    async with hub.lock("device-1"), asyncio.timeout(10), hub.lock("device-2"):
        pass


async def test_a_lock_is_taken_again_after_an_error(hub: Hub) -> None:
    with pytest.raises(RuntimeError):
        async with hub.lock("device-1"):
            raise RuntimeError
    async with asyncio.timeout(10), hub.lock("device-1"):
        pass


async def test_a_waiter_that_is_cancelled_disturbs_nobody_and_nothing_is_kept(hub: Hub) -> None:
    entered: list[int] = []
    release = asyncio.Event()

    async def work(i: int) -> None:
        async with hub.lock("device-1"):
            entered.append(i)
            await release.wait()

    tasks = [asyncio.create_task(work(i)) for i in range(4)]
    await until(lambda: entered == [0], "the first holds the lock")
    tasks[1].cancel()
    tasks[2].cancel()
    release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert entered == [0, 3]
    assert hub._locks == {}, "ten thousand clients that have gone leave nothing behind"
