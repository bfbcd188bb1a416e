"""What a node reads of itself when it is asked, and who reads for the cluster."""

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from aip_cluster.protocol import ClientType
from node.app import Node
from node.connections.connection import Connection, Message
from node.telemetry.lag import SAMPLE_EVERY_S, LoopLag
from node.telemetry.readings import ClusterReadings, NodeCollector, Readings
from shared_state.delay_queue import DueKind
from shared_state.errors import StateUnavailable
from tests.support.asgi import Device, rest
from tests.support.wait import until
from tests.unit.node.conftest import MakeNode


def _value(node: Node, name: str, **labels: str) -> float | None:
    return node.metrics.registry.get_sample_value(name, labels)


async def _never(message: Message) -> None:
    """A socket that takes nothing."""
    await asyncio.Event().wait()


def _held(node: Node, client_id: str) -> Connection:
    connection = Connection(_never, metrics=node.metrics, queue_bound=node.settings.send_queue_bytes)
    connection.client_id, connection.client_type = client_id, ClientType.DEVICE
    node.gateway.hub.put(connection)
    return connection


async def test_bytes_that_wait_are_read_from_the_sockets(node: Node) -> None:
    quick, slow = _held(node, "quick"), _held(node, "slow")
    assert _value(node, "aip_ws_send_queue_bytes") == 0
    quick.send_raw(b"x" * 10)
    slow.send_raw(b"y" * 1_000)
    assert _value(node, "aip_ws_send_queue_bytes") == 1_010
    assert _value(node, "aip_ws_send_queue_largest_bytes") == 1_000
    assert _value(node, "aip_ws_sent_bytes_total") == 1_010
    for connection in (quick, slow):
        connection.abandon()
        node.gateway.hub.remove(connection)
    assert _value(node, "aip_ws_send_queue_bytes") == 0


async def test_ten_thousand_registered_clients_add_no_series(node: Node) -> None:
    await node.api.overview.refresh()
    before = {(s.name, tuple(sorted(s.labels.items()))) for f in node.metrics.registry.collect() for s in f.samples}
    sockets = [_held(node, f"device-{i}") for i in range(10_000)]
    await node.membership._renew()
    await node.api.overview.refresh()
    after = {(s.name, tuple(sorted(s.labels.items()))) for f in node.metrics.registry.collect() for s in f.samples}
    assert after == before
    assert _value(node, "aip_connections", client_type="device") == 10_000
    for connection in sockets:
        node.gateway.hub.remove(connection)


async def test_sessions_stand_by_state_and_each_stage_is_timed_once(node: Node) -> None:
    async with Device(node) as device, rest(node) as api:
        body: dict[str, Any] = {"client_id": "device-1", "request": "go", "commands": [{"tool_name": "echo"}]}
        assert (await api.post("/api/dispatch", json=body)).status_code == 200
        command, _ = await device.next_commands()
        assert _value(node, "aip_sessions", state="running") == 1
        assert _value(node, "aip_task_delivery_seconds_count") == 1
        assert _value(node, "aip_task_acknowledgement_seconds_count") == 0
        assert _value(node, "aip_task_run_seconds_count", state="completed") == 0
        for _ in range(2):
            device.send(
                type="command_results",
                session_id=command.session_id,
                prev_response_id=command.response_id,
                action_results=[{"status": "success"}],
            )
        await until(lambda: _value(node, "aip_sessions_ended_total", state="completed") == 1, "it is over")
        assert _value(node, "aip_sessions", state="running") == 0
        assert _value(node, "aip_task_acknowledgement_seconds_count") == 1
        assert _value(node, "aip_task_run_seconds_count", state="completed") == 1
        assert _value(node, "aip_session_duration_seconds_count", state="completed") == 1
        assert _value(node, "aip_bus_frames_sent_total", kind="inbox") == 1
        assert _value(node, "aip_bus_frames_unheard_total", kind="inbox") == 0


async def test_a_device_that_works_on_its_own_is_timed_from_its_first_word(node: Node) -> None:
    async with Device(node, features=("autonomous",)) as device, rest(node) as api:
        body = {"client_id": "device-1", "request": "go"}
        assert (await api.post("/api/dispatch", json=body)).status_code == 200
        task = await device.receive()
        assert _value(node, "aip_sessions", state="dispatched") == 1
        device.send(type="command_results", status="continue", session_id=task.session_id, messages=["at it"])
        await until(lambda: _value(node, "aip_sessions", state="running") == 1, "it is at work")
        device.send(type="task_end", status="failed", session_id=task.session_id, error="no")
        await until(lambda: _value(node, "aip_task_run_seconds_count", state="failed") == 1, "it is over")


async def test_only_the_first_of_the_nodes_speaks_for_the_cluster(make_node: MakeNode) -> None:
    first = await make_node()
    second = await make_node()
    await first.membership._renew()
    async with Device(first, "d1"), Device(second, "d2"):
        for node in (first, second):
            await node.membership._renew()
        await asyncio.gather(first.api.overview.refresh(), second.api.overview.refresh())
        assert _value(first, "aip_cluster_nodes", state="serving") == 2
        assert _value(first, "aip_cluster_connections", client_type="device") == 2
        assert _value(first, "aip_cluster_connections", client_type="constellation") == 0
        assert _value(first, "aip_cluster_sessions", state="running") == 0
        assert _value(second, "aip_cluster_nodes", state="serving") is None
    await first.stop()
    async with Device(second, "d2"):
        await second.membership._renew()
        await second.api.overview.refresh()
        assert _value(second, "aip_cluster_nodes", state="serving") == 1


async def test_what_is_due_and_left_undone_is_told(node: Node) -> None:
    await node.api.overview.refresh()
    assert (_value(node, "aip_cluster_due"), _value(node, "aip_cluster_due_overdue_seconds")) == (0, 0)
    await node.state.delay_queue.add(DueKind.CLIENT, "away", 100.0)
    node.api.overview._read_at = None
    await node.api.overview.refresh()
    assert (_value(node, "aip_cluster_due"), _value(node, "aip_cluster_due_overdue_seconds")) == (1, 0)


async def test_without_redis_nothing_is_said_of_the_cluster_and_all_of_the_node(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.api.overview.refresh()
    assert _value(node, "aip_cluster_nodes", state="serving") == 1

    async def away() -> None:
        raise StateUnavailable("away")

    monkeypatch.setattr(node.state.nodes, "describe", away)
    monkeypatch.setattr(node.api.overview, "_clock", lambda: 1e12)
    await node.api.overview.refresh()
    assert _value(node, "aip_cluster_nodes", state="serving") is None
    assert _value(node, "aip_lease_held") == 1


def test_what_is_not_known_is_left_out() -> None:
    registry = CollectorRegistry()
    numbers: dict[str, Any] = dict.fromkeys((f for f in Readings.__slots__ if f not in {"sessions", "cluster"}), 7)
    readings = [Readings(**numbers)]
    NodeCollector(registry, lambda: readings[-1])
    assert registry.get_sample_value("aip_redis_calls_waiting") == 7
    assert registry.get_sample_value("aip_cluster_due") is None
    cluster = ClusterReadings(nodes={"serving": 3}, connections={}, sessions={}, due=4, due_overdue_s=0.5)
    readings.append(Readings(**numbers, cluster=cluster))
    assert registry.get_sample_value("aip_cluster_due") == 4
    assert registry.get_sample_value("aip_cluster_nodes", {"state": "serving"}) == 3


async def test_the_lag_of_the_loop_is_sampled_until_it_is_closed() -> None:
    seen: list[float] = []
    lag = LoopLag(seen.append)
    lag.start()
    await until(lambda: len(seen) >= 2, "two samples")
    lag.close()
    lag.close()
    count = len(seen)
    await asyncio.sleep(SAMPLE_EVERY_S * 2)
    assert len(seen) == count
    assert min(seen) >= 0
