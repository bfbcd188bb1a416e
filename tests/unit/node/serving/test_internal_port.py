"""Metrics and probes on a port of their own, for the inside of the cluster."""

import asyncio
import socket

import httpx
import pytest

from devtools.topologies import free_port
from node.api.openapi import document
from node.app import Node
from node.settings import Settings
from tests.support.asgi import rest
from tests.unit.node.conftest import MakeNode


@pytest.fixture
def port() -> int:
    return free_port()


async def _get(port: int, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


async def test_it_serves_metrics_and_probes_and_nothing_else(make_node: MakeNode, port: int) -> None:
    node = await make_node(local=True, metrics_port=port, api_key="secret")
    answer = await _get(port, "/metrics")
    assert (answer.status_code, "aip_build_info{" in answer.text) == (200, True)
    assert (await _get(port, "/livez")).status_code == 200
    assert (await _get(port, "/readyz")).json() == {"status": "ready"}
    for path in ("/api/health", "/api/clients", "/openapi.json", "/docs", "/", "/ws", "/metrics/x"):
        assert (await _get(port, path)).status_code == 404, path
    async with rest(node) as client:
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get("/livez")).status_code == 200
        assert "/metrics" not in (await client.get("/openapi.json")).json()["paths"]


async def test_without_one_metrics_stay_where_everything_is(api: httpx.AsyncClient) -> None:
    assert (await api.get("/metrics")).status_code == 200
    assert "/metrics" in document()["paths"]


async def test_it_stays_through_a_drain_and_goes_with_the_node(make_node: MakeNode, port: int) -> None:
    node = await make_node(local=True, metrics_port=port)
    node.drainer.begin()
    await node.drainer.wait()
    answer = await _get(port, "/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "draining")
    assert "aip_draining 1.0" in (await _get(port, "/metrics")).text
    await node.stop()
    with pytest.raises(httpx.ConnectError):
        await _get(port, "/livez")


async def test_a_port_that_is_taken_fails_the_start(port: int) -> None:
    node = Node(Settings(local=True, redis_url="embedded://taken", metrics_port=port))
    with socket.create_server(("127.0.0.1", port)), pytest.raises(OSError, match="in use"):
        await node.start()
    await node.stop()


async def test_many_scrapers_at_once_are_answered(make_node: MakeNode, port: int) -> None:
    await make_node(local=True, metrics_port=port)
    answers = await asyncio.gather(*(_get(port, "/metrics") for _ in range(10)))
    assert [a.status_code for a in answers] == [200] * 10


def test_it_is_not_the_port_of_the_node() -> None:
    with pytest.raises(ValueError, match="metrics_port must not be port"):
        Settings(port=5000, metrics_port=5000)
