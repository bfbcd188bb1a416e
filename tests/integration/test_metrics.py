"""What real nodes tell Prometheus, after work that went across them."""

import asyncio

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as classic

from tests.integration.conftest import MakeCluster
from tests.integration.harness.cluster import Cluster, command
from tests.integration.harness.guests import Guests
from tests.integration.harness.processes import free_port
from tests.support.promtool import check_metrics

pytestmark = pytest.mark.integration

ECHO = command("echo", text="hello")
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
TASKS = 20


def values(text: str) -> dict[str, float]:
    """Samples by name and labels, as they are written."""
    return {
        name + "".join(f"{{{k}={v}}}" for k, v in sorted(labels.items())): value
        for family in classic(text)
        for name, labels, value, *_ in family.samples
    }


async def work(cluster: Cluster, guests: Guests) -> str:
    """Tasks for a device of node a, asked for on node b; returns the device's id."""
    device = await guests.device(cluster.a)
    answers = await asyncio.gather(*(cluster.b.dispatch(device.client_id, ECHO) for _ in range(TASKS)))
    await asyncio.gather(*(cluster.b.done(answer["task_name"]) for answer in answers))
    assert (await cluster.b.try_dispatch("nobody", ECHO)).status_code == 404
    return device.client_id


async def test_the_internal_port_serves_clean_metrics_of_every_stage(
    own_cluster: MakeCluster, guests: Guests, http: httpx.AsyncClient
) -> None:
    port = free_port()
    cluster = own_cluster(1)
    inside = cluster.launch_another("node-b", metrics_port=port)
    await cluster.all_ready()
    device_id = await work(cluster, guests)

    # Metrics are not for whoever reaches the main port, with or without tricks.
    for path in ("/metrics", "/metrics/", "//metrics"):
        assert (await inside.get(path)).status_code == 404, path
    for path in ("/livez", "/readyz"):
        assert (await http.get(f"http://127.0.0.1:{port}{path}")).status_code == 200
    assert (await http.get(f"http://127.0.0.1:{port}/api/clients")).status_code == 404

    text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    assert check_metrics(text) == ""
    asked = values(text)
    assert asked["aip_dispatches_total{outcome=accepted}"] == TASKS
    assert asked["aip_dispatches_total{outcome=not_online}"] == 1
    assert asked["aip_bus_frames_sent_total{kind=inbox}"] == TASKS
    assert asked["aip_tcp_connections"] >= 1

    text = (await cluster.a.get("/metrics")).text
    assert check_metrics(text) == ""
    ran = values(text)
    assert ran["aip_task_delivery_seconds_count"] == TASKS
    assert ran["aip_task_acknowledgement_seconds_count"] == TASKS
    for name in ("aip_task_run_seconds_count", "aip_session_duration_seconds_count"):
        assert ran[f"{name}{{state=completed}}"] == TASKS
    assert ran["aip_bus_frames_total{kind=inbox}"] == TASKS
    assert ran["aip_connections{client_type=device}"] == 1
    assert ran["aip_ready"] == ran["aip_lease_held"] == ran["aip_bus_subscribed"] == 1
    assert device_id not in text
    # One node speaks for both: that whose id sorts first.
    assert ran["aip_cluster_nodes{state=serving}"] == 2
    assert not [name for name in asked if name.startswith("aip_cluster_")]


async def test_a_scraper_that_knows_openmetrics_gets_it(cluster: Cluster, http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{cluster.a.process.url}/metrics", headers={"Accept": OPENMETRICS})

    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    families = {family.name: family for family in openmetrics(answer.text)}  # type: ignore[no-untyped-call]
    assert families["aip_build"].type == "info"
    assert families["aip_dispatches"].type == "counter"
