"""One trace over real processes: asked for on one node, run on a device of another, told to a collector by both."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import command
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.patience import eventually
from tests.support.collector import Collector
from tests.support.device_process import DeviceProcess
from tests.support.promtool import check_metrics
from tests.support.spans import only

pytestmark = pytest.mark.integration

TRACE, ASKER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    # Sent at once, not every five seconds.
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    with Collector() as running:
        yield running
    assert running.complaints == []


async def test_a_task_is_one_trace_across_nodes_to_the_device_and_back(
    collector: Collector, own_cluster: MakeCluster, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    cluster = own_cluster(2, trace_endpoint=collector.url)
    device = DeviceProcess(unique("lab"), tmp_path / "device", cluster.a.ws_url)
    device.launch()
    try:

        async def held() -> bool:
            return await cluster.b.holder_of(device.device_id) is not None

        await eventually(held, "the device is there", within_s=30)
        answer = await http.post(
            f"{cluster.b.process.url}/api/dispatch",
            json={
                "client_id": device.device_id,
                "request": "look",
                "commands": [command("get_system_info")],
                "timeout_s": 20,
            },
            headers={"traceparent": f"00-{TRACE}-{ASKER}-01"},
        )
        assert answer.headers["x-trace-id"] == TRACE
        await cluster.b.done(answer.json()["task_name"])

        async def whole() -> bool:
            return {"POST /api/dispatch", "aip.post", "aip.deliver", "aip.session", "aip.answer"} <= {
                span.name for span in collector.of(TRACE)
            }

        await eventually(whole, "both nodes have told the collector", within_s=30)
        found = collector.of(TRACE)
        request, post = only(found, "POST /api/dispatch"), only(found, "aip.post")
        deliver, session = only(found, "aip.deliver"), only(found, "aip.session")
        assert [s.parent_id for s in (request, post, deliver, session)] == [
            ASKER,
            request.span_id,
            post.span_id,
            deliver.span_id,
        ]
        # The device gave back what its command carried.
        assert {s.parent_id for s in found if s.name == "aip.answer"} == {session.span_id}
        node_a, node_b = await cluster.a.node_id(), await cluster.b.node_id()
        assert {s.node for s in (request, post)} == {node_b}
        assert {s.node for s in (deliver, session)} == {node_a}
        assert len({s.span_id for s in found}) == len(found)

        page = await http.get(f"{cluster.a.process.url}/metrics", headers={"Accept": OPENMETRICS})
        families = openmetrics(page.text)  # type: ignore[no-untyped-call]
        named = {f.name for f in families for s in f.samples if s.exemplar and s.exemplar.labels["trace_id"] == TRACE}
        assert {"aip_task_delivery_seconds", "aip_session_duration_seconds"} <= named
        assert check_metrics((await cluster.a.get("/metrics")).text) == ""
    finally:
        device.dispose()


async def test_ufos_own_clients_are_not_disturbed_by_a_trace(
    collector: Collector, own_cluster: MakeCluster, guests: Guests
) -> None:
    cluster = own_cluster(1, trace_endpoint=collector.url)
    device = await guests.device(cluster.a)
    answer = await cluster.a.dispatch(device.client_id, command("echo", text="hello"))
    assert (await cluster.a.done(answer["task_name"]))["state"] == "completed"
    task = await device.expect("task")
    # Beside what it knows, one field that its models ignore.
    assert set(task["metadata"]) == {"traceparent"}

    async def told() -> bool:
        return bool(collector.of(task["metadata"]["traceparent"].split("-")[1]))

    await eventually(told, "the collector has heard of it", within_s=30)
