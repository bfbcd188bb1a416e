"""Metrics: ours by name, bounded in number whatever peers do."""

import asyncio

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from aip_cluster.protocol import ClientType
from node.app import Node
from node.connections.connection import Connection, Message
from node.connections.hub import Hub
from node.telemetry.metrics import Metrics
from tests.support.asgi import Device, Socket


async def _nowhere(message: Message) -> None:
    """A socket that takes everything."""


def _families(metrics: Metrics) -> list[Metric]:
    return list(text_string_to_metric_families(metrics.expose().decode()))


def _series(metrics: Metrics) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {(s.name, tuple(sorted(s.labels.items()))) for family in _families(metrics) for s in family.samples}


def test_every_metric_is_ours_by_name_and_says_what_it_is() -> None:
    for family in text_string_to_metric_families(Metrics().expose().decode()):
        # Those of every process keep the names that dashboards of others know.
        assert family.name.startswith(("aip_", "process_", "python_gc_"))
        assert family.documentation
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


async def test_every_label_is_from_a_closed_set(node: Node, api: httpx.AsyncClient) -> None:
    """No label could name a client, a session, a task or an address."""
    await api.get("/metrics")
    names = {label for family in _families(node.metrics) for sample in family.samples for label in sample.labels}
    assert names - {"le", "generation", "python", "version"} == {
        "client_type",
        "direction",
        "type",
        "reason",
        "outcome",
        "state",
        "method",
        "route",
        "status",
        "kind",
        "proof",
    }


def test_ten_thousand_clients_add_no_series() -> None:
    metrics = Metrics()
    hub = Hub(metrics)

    def join(client_id: str, client_type: ClientType) -> Connection:
        connection = Connection(_nowhere, metrics=metrics, queue_bound=1_000)
        connection.client_id, connection.client_type = client_id, client_type
        hub.put(connection)
        return connection

    for kind in ClientType:
        join(f"first-{kind}", kind)
    before = _series(metrics)
    sockets = [join(f"device-{i}", ClientType.DEVICE) for i in range(10_000)]
    assert metrics.registry.get_sample_value("aip_connections", {"client_type": "device"}) == 10_001
    assert _series(metrics) == before
    for socket in sockets:
        hub.remove(socket)
    assert metrics.registry.get_sample_value("aip_connections", {"client_type": "device"}) == 1
    assert _series(metrics) == before


def test_round_trips_and_their_failures_are_counted() -> None:
    metrics = Metrics()
    metrics.observe_redis(0.01, failed=False)
    metrics.observe_redis(1.0, failed=True)
    assert metrics.registry.get_sample_value("aip_redis_pipeline_duration_seconds_count") == 2
    assert metrics.registry.get_sample_value("aip_redis_errors_total") == 1


async def test_paths_add_no_series(node: Node, api: httpx.AsyncClient) -> None:
    async def walk(i: int) -> None:
        for path in (f"/nowhere/{i}", f"/api/clients/c{i}", f"/api/task_result/t{i}", f"/api/sessions/s{i}?x={i}"):
            await api.get(path)

    await walk(0)
    before = _series(node.metrics)
    await asyncio.gather(*(walk(i) for i in range(1, 50)))
    after = {s for s in _series(node.metrics) if not s[0].startswith("aip_redis")}
    assert after == {s for s in before if not s[0].startswith("aip_redis")}
    count = node.metrics.registry.get_sample_value(
        "aip_http_request_duration_seconds_count",
        {"method": "GET", "route": "/api/clients/{client_id:path}", "status": "404"},
    )
    assert count == 50


@pytest.mark.parametrize("path", ["/api/clients", "/nowhere", "/docs"])
async def test_methods_add_no_series(node: Node, api: httpx.AsyncClient, path: str) -> None:
    await api.request("BREW", path)
    before = _series(node.metrics)
    for i in range(20):
        await api.request(f"BREW{i}", path)
    assert _series(node.metrics) == before


async def test_message_types_that_a_peer_invents_add_no_series(node: Node) -> None:
    async with Device(node) as device:
        assert (await device.ask(type="invented")).type == "error"
        before = _series(node.metrics)
        for i in range(20):
            assert (await device.ask(type=f"invented-{i}")).type == "error"
        assert _series(node.metrics) == before
        count = node.metrics.registry.get_sample_value("aip_ws_messages_total", {"direction": "in", "type": "invalid"})
        assert count == 21


async def test_refused_registrations_are_counted_by_reason(node: Node) -> None:
    async with Device(node, "d1"):
        for i in range(5):
            async with Socket(node) as socket:
                await socket.ask(type="register", client_id="d1")
            async with Socket(node) as socket:
                await socket.ask(type="register", client_id=f"bad{{{i}}}")
    for outcome, count in (("accepted", 1), ("duplicate", 5), ("invalid", 5)):
        found = node.metrics.registry.get_sample_value("aip_registrations_total", {"outcome": outcome})
        assert found == count, outcome


async def test_metrics_are_served_as_prometheus_reads_them(api: httpx.AsyncClient) -> None:
    answer = await api.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"aip_build_info", "aip_connections", "aip_redis_pipeline_duration_seconds"} <= names
    # Nobody asks for them, and they are a third of the lines.
    assert not [name for name in names if name.endswith("_created")]
