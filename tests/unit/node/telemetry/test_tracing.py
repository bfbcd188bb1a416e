"""Traces: from a request to the device and back, and at no cost to anybody where they are off."""

import asyncio
import logging
import socket
import threading
from dataclasses import replace
from typing import Any

import orjson
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from aip_cluster.protocol import Result, ResultStatus
from node.app import Node
from node.sessions.task_spec import TaskSpec
from node.settings import Settings
from node.telemetry import tracing
from node.telemetry.tracing import Tracing, tracing_for
from shared_state.session_record import order_json
from shared_state.sessions import Session
from tests.support.asgi import Device, Socket, rest
from tests.support.features import OURS
from tests.support.spans import Span, of_sdk, only
from tests.support.wait import PATIENCE_S, until
from tests.unit.node.conftest import MakeNode

TRACE, ASKER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{ASKER}-01"
OK = Result(status=ResultStatus.SUCCESS, result=1)
COMMANDS = [{"tool_name": "one"}]
BODY = {"client_id": "device-1", "request": "do it", "commands": COMMANDS}


class Spans:
    """What all nodes of a test have recorded."""

    def __init__(self) -> None:
        self.kept = InMemorySpanExporter()
        self.sampler: Sampler | None = None

    def tracing(self, settings: Settings, node_id: str) -> Tracing:
        """In place of what the settings say: the SDK's own memory instead of a collector."""
        resource = Resource.create({"service.instance.id": node_id})
        provider = TracerProvider(self.sampler, resource, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.kept))
        return Tracing(provider)

    @property
    def all(self) -> list[Span]:
        """Those that have ended."""
        return of_sdk(self.kept.get_finished_spans())

    async def named(self, name: str, *, count: int = 1) -> list[Span]:
        """Those of a name, once there are so many."""
        await until(lambda: sum(s.name == name for s in self.all) >= count, f"{count} spans {name}")
        return [s for s in self.all if s.name == name]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    kept = Spans()
    monkeypatch.setattr("node.app.tracing_for", kept.tracing)
    return kept


async def _ended(node: Node, session_id: str) -> dict[str, Any]:
    async with rest(node) as api:
        await until(lambda: session_id not in node.sessions.runner, "it is over")
        found: dict[str, Any] = (await api.get(f"/api/sessions/{session_id}")).json()
        return found


async def test_a_task_is_one_trace_from_the_request_to_the_device_and_back(spans: Spans, make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    async with Device(here) as device, rest(there) as api:
        answer = await api.post("/api/dispatch", json=BODY, headers={"traceparent": TRACEPARENT})
        assert answer.headers["x-trace-id"] == TRACE
        task = await device.receive()
        command, _ = await device.next_commands()
        assert task.metadata is not None
        assert command.metadata == task.metadata
        # An instrumented device answers with a span of its own.
        _, trace_id, session_span, _ = task.metadata["traceparent"].split("-")
        own = "1234567890abcdef"
        device.send(
            type="command_results",
            session_id=command.session_id,
            prev_response_id=command.response_id,
            action_results=[OK.model_dump(mode="json")],
            metadata={"traceparent": f"00-{trace_id}-{own}-01"},
        )
        end = await device.receive()
        assert (end.type, end.metadata) == ("task_end", task.metadata)
        await spans.named("aip.session")
    found = [s for s in spans.all if s.trace_id == TRACE]
    request, post = only(found, "POST /api/dispatch"), only(found, "aip.post")
    deliver, whole, back = (only(found, f"aip.{name}") for name in ("deliver", "session", "answer"))
    assert (request.parent_id, post.parent_id) == (ASKER, request.span_id)
    assert (deliver.parent_id, whole.parent_id, back.parent_id) == (post.span_id, deliver.span_id, own)
    assert session_span == whole.span_id
    kinds = [s.kind for s in (request, post, deliver, whole, back)]
    assert kinds == ["SERVER", "PRODUCER", "CONSUMER", "INTERNAL", "CONSUMER"]
    assert {s.node for s in (request, post)} == {there.node_id}
    assert {s.node for s in (deliver, whole, back)} == {here.node_id}
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/api/dispatch",
        "http.response.status_code": 200,
    }
    session_id = answer.json()["session_id"]
    assert {s.attributes["aip.session_id"] for s in (post, deliver, whole)} == {session_id}
    assert whole.attributes["aip.state"] == "completed"
    assert not [s.failed for s in found if s.failed]
    assert deliver.end_ns <= whole.end_ns


async def test_events_errors_and_exemplars_name_the_trace(spans: Spans, make_node: MakeNode) -> None:
    node = await make_node()
    async with Device(node) as device, rest(node) as api:
        answer = await api.post("/api/dispatch", json=BODY, headers={"traceparent": TRACEPARENT})
        command, _ = await device.next_commands()
        device.answer(command, OK)
        session = await _ended(node, answer.json()["session_id"])
        assert [e["trace_id"] for e in session["steps"] if e["event"] == "dispatched"] == [TRACE]

        async def told() -> list[Any]:
            return [e.get("trace_id") for e in await node.state.events.tail() if e["event"] == "session_ended"]

        await until(told, "the end is among the events")
        assert await told() == [TRACE]
        refused = await api.post("/api/dispatch", json={}, headers={"traceparent": TRACEPARENT})
        assert (refused.status_code, refused.headers["x-trace-id"]) == (400, TRACE)
        # Nobody's trace: one of its own, told to whoever asked.
        assert len((await api.get("/api/clients")).headers["x-trace-id"]) == 32
        page = await api.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert "x-trace-id" not in page.headers
        families = openmetrics(page.text)  # type: ignore[no-untyped-call]
        named = {f.name for f in families for s in f.samples if s.exemplar and s.exemplar.labels["trace_id"] == TRACE}
        assert named == {
            "aip_http_request_duration_seconds",
            "aip_task_delivery_seconds",
            "aip_task_acknowledgement_seconds",
            "aip_task_run_seconds",
            "aip_session_duration_seconds",
        }
        # Classic text knows no exemplars.
        assert TRACE not in (await api.get("/metrics")).text


async def test_an_orchestrators_own_trace_goes_on_and_comes_back(spans: Spans, make_node: MakeNode) -> None:
    node = await make_node()
    async with Device(node, features=("autonomous",)) as device, Socket(node) as asker:
        await asker.ask(type="register", client_id="galaxy", client_type="constellation")
        acknowledged = await asker.ask(
            type="task",
            target_id="device-1",
            request="do it",
            session_id="galaxy@1",
            task_name="galaxy/step",
            client_type="constellation",
            metadata={"traceparent": TRACEPARENT},
        )
        assert acknowledged.type == "heartbeat"
        task = await device.receive()
        device.send(type="task_end", status="failed", session_id=task.session_id, error="no", metadata=task.metadata)
        end = await asker.receive()
        assert (end.type, end.metadata) == ("task_end", task.metadata)
    (whole,), (back,) = await spans.named("aip.session"), await spans.named("aip.answer")
    post = only(spans.all, "aip.post")
    assert (post.trace_id, post.parent_id) == (TRACE, ASKER)
    assert (whole.failed, whole.attributes["aip.state"]) == ("failed", "failed")
    assert back.parent_id == whole.span_id


async def test_a_session_that_goes_on_elsewhere_stays_in_its_trace(spans: Spans, make_node: MakeNode) -> None:
    here, there = await make_node(), await make_node()
    device = await Device(here, features=OURS).__aenter__()
    async with rest(here) as api:
        answer = await api.post("/api/dispatch", json=BODY, headers={"traceparent": TRACEPARENT})
    first, _ = await device.next_commands()
    await device.cut()
    async with Device(there, features=OURS) as back:
        again, _ = await back.next_commands()
        assert again.response_id == first.response_id
        back.answer(again, OK)
        await _ended(there, answer.json()["session_id"])
        wholes = await spans.named("aip.session", count=2)
    assert [s.trace_id for s in wholes] == [TRACE, TRACE]
    assert [s.node for s in wholes] == [here.node_id, there.node_id]
    assert ["aip.state" in s.attributes for s in wholes] == [False, True]
    post = only(spans.all, "aip.post")
    assert {s.parent_id for s in await spans.named("aip.deliver", count=2)} == {post.span_id}


async def test_another_trace_than_its_tasks_is_not_taken_from_a_device(spans: Spans, make_node: MakeNode) -> None:
    node = await make_node()
    async with Device(node) as device, rest(node) as api:
        answer = await api.post("/api/dispatch", json=BODY)
        command, _ = await device.next_commands()
        for metadata in ({"traceparent": TRACEPARENT}, {"traceparent": 5}, {}):
            device.send(
                type="command_results",
                session_id=command.session_id,
                prev_response_id=command.response_id,
                action_results=[OK.model_dump(mode="json")],
                metadata=metadata,
            )
        await _ended(node, answer.json()["session_id"])
    assert "aip.answer" not in {s.name for s in spans.all}
    assert TRACE not in {s.trace_id for s in spans.all}


async def test_what_is_not_sampled_is_carried_and_recorded_nowhere(spans: Spans, make_node: MakeNode) -> None:
    spans.sampler = ParentBased(ALWAYS_OFF)
    node = await make_node()
    async with Device(node) as device, rest(node) as api:
        answer = await api.post("/api/dispatch", json=BODY, headers={"traceparent": f"00-{TRACE}-{ASKER}-00"})
        task = await device.receive()
        assert task.metadata is not None
        assert task.metadata["traceparent"].startswith(f"00-{TRACE}-")
        assert task.metadata["traceparent"].endswith("-00")
        command, _ = await device.next_commands()
        device.answer(command, OK)
        await _ended(node, answer.json()["session_id"])
        page = await api.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert TRACE not in page.text
    assert spans.all == []


async def test_a_request_that_fails_is_a_span_that_failed(
    spans: Spans, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await make_node()

    async def broken(client_id: str) -> None:
        raise RuntimeError(client_id)

    monkeypatch.setattr(node.state.clients, "find", broken)
    monkeypatch.setattr(node.state.clients, "get", broken)
    async with rest(node) as api:
        assert (await api.get("/api/clients/d1")).status_code == 500
        await api.get("/api/clients", headers=[("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)])
    failed, fine = spans.all
    assert (failed.name, failed.failed) == ("GET /api/clients/{client_id:path}", "500")
    assert (fine.failed, fine.parent_id) == (None, ""), "two parents are none"


async def test_probes_and_scrapes_are_traced_by_nobody(spans: Spans, make_node: MakeNode) -> None:
    node = await make_node()
    async with rest(node) as api:
        for path in ("/livez", "/readyz", "/metrics", "/api/health", "/docs"):
            assert "x-trace-id" not in (await api.get(path)).headers
    assert spans.all == []


async def test_without_tracing_nothing_of_it_is_seen(node: Node) -> None:
    assert node.tracing is None
    async with Device(node) as device, rest(node) as api:
        answer = await api.post("/api/dispatch", json=BODY, headers={"traceparent": TRACEPARENT})
        assert "x-trace-id" not in answer.headers
        for _ in range(2):
            assert "metadata" not in orjson.loads(await device.receive_raw())
        session = await node.state.sessions.find(answer.json()["session_id"])
        assert session is not None
        assert session.trace == ""
        assert b"trace" not in order_json(session)


def test_an_order_carries_its_trace_only_if_it_has_one() -> None:
    session = Session(session_id="s", client_id="c", task_name="t", request="r", planner="direct")
    assert b"trace" not in order_json(session)
    # As a node writes it that knows nothing of traces.
    assert TaskSpec.from_json(order_json(session)).trace == ""
    traced = replace(session, trace=TRACEPARENT)
    for order in (TaskSpec.of(traced), TaskSpec.from_json(order_json(traced))):
        assert order.trace == TRACEPARENT


async def test_what_comes_later_over_the_same_socket_is_no_part_of_the_trace(spans: Spans, make_node: MakeNode) -> None:
    node = await make_node()
    async with Device(node, features=("autonomous",)) as device, rest(node) as api:
        answer = await api.post("/api/dispatch", json=BODY | {"commands": []}, headers={"traceparent": TRACEPARENT})
        assert answer.status_code == 200, answer.text
        task = await device.receive()
        device.send(type="task_end", status="completed", session_id=task.session_id)
        await spans.named("aip.session")
        device.send(type="task", request="something of my own", task_name="own")
        first, own = await spans.named("aip.post", count=2)
    assert first.trace_id == TRACE
    assert own.trace_id != TRACE
    assert own.parent_id == ""


# -- whether, and where to -----------------------------------------------------------------------------------------
@pytest.fixture(autouse=True)
def no_variables_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "TRACES_ENDPOINT"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    for name in ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "traces"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
async def test_opentelemetrys_own_variables_switch_it_on(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], traces: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = tracing_for(Settings(), "node-1")
    assert (found is not None) == traces
    if found is not None:
        await found.close()


async def test_without_the_extra_a_setting_is_refused_and_a_variable_is_not_heeded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "_installed", lambda name: False)
    with pytest.raises(ValueError, match=r"trace_endpoint: .*aip-cluster-server\[otel\]"):
        tracing_for(Settings(trace_endpoint="http://127.0.0.1:9"), "node-1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert tracing_for(Settings(), "node-1") is None
    assert "tracing is off" in caplog.text


async def test_a_collector_that_says_nothing_keeps_no_node_from_ending(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "CLOSE_S", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        node = await make_node(trace_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        async with rest(node) as api:
            assert (await api.get("/api/clients")).status_code == 200
        async with asyncio.timeout(PATIENCE_S):
            await node.stop()
        assert "some spans were not sent" in caplog.text
        # What its thread has to say when it gives up is not to be found in the logs of the tests after this one.
        await until(lambda: "tracing-close" not in {t.name for t in threading.enumerate()}, "the thread has ended")


@pytest.mark.parametrize("name", tracing._EXPORTERS)
async def test_a_collector_that_is_away_is_a_warning(caplog: pytest.LogCaptureFixture, name: str) -> None:
    found = tracing_for(Settings(trace_endpoint="http://127.0.0.1:9"), "node-1")
    logging.getLogger(name).error("nobody there")
    assert [(r.levelname, r.levelno) for r in caplog.records] == [("WARNING", logging.WARNING)]
    assert found is not None
    await found.close()
