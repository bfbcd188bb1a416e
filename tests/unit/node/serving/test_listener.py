"""A listener that is closed loses no connection that was made to it."""

import asyncio
import socket
import sys
from collections.abc import Iterator

import pytest

from node.serving.listener import close_listeners, stop_taking, waiting
from tests.support.wait import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the filter")

CONNECTIONS = 5


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def connected(address: tuple[str, int]) -> socket.socket:
    client = socket.create_connection(address, timeout=PATIENCE_S)
    client.sendall(b"request")
    return client


def test_no_connection_is_taken_any_more_and_those_that_wait_stay(listener: socket.socket) -> None:
    address = listener.getsockname()
    clients = [connected(address) for _ in range(CONNECTIONS)]
    assert stop_taking(listener)
    with pytest.raises(TimeoutError):
        socket.create_connection(address, timeout=0.3)
    assert waiting(listener) == CONNECTIONS
    for _ in clients:
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(100) == b"request"
    assert waiting(listener) == 0
    for client in clients:
        client.close()


def test_without_that_a_request_that_waits_is_lost_with_the_listener(listener: socket.socket) -> None:
    """The demonstration."""
    with connected(listener.getsockname()) as client:
        listener.close()
        with pytest.raises(ConnectionResetError):
            client.recv(100)


async def test_every_request_that_came_before_the_close_is_answered() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(7))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    # The loop has accepted none of them when the closing begins.
    clients = [connected(address) for _ in range(CONNECTIONS)]
    await close_listeners([server])
    for client in clients:
        with client:
            assert await asyncio.to_thread(client.recv, 100) == b"request"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=PATIENCE_S)
    await server.wait_closed()
