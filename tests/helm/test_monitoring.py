"""Prometheus and Grafana find what the chart brings for them."""

import json

import yaml

from devtools.chart.rendering import CHART, rendered, values_of
from tests.helm.conftest import CASES
from tests.helm.objects import strings_in

RULES = sorted((CHART / "rules").glob("*.yaml"))
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))


def test_the_service_monitor_finds_the_service_with_the_metrics() -> None:
    release = rendered(values_of(CASES["ha"]))
    (monitor,) = release.of_kind("ServiceMonitor")
    selector = monitor["spec"]["selector"]["matchLabels"]
    (service,) = [s for s in release.of_kind("Service") if selector.items() <= s["metadata"]["labels"].items()]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_pod_monitor_finds_the_nodes() -> None:
    release = rendered(values_of(CASES["external-redis"]))
    (monitor,) = release.of_kind("PodMonitor")
    pod = release.named("Deployment", "-node")["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


def test_every_rule_reaches_prometheus_as_it_was_tested() -> None:
    release = rendered(values_of(CASES["ha"]))
    groups = [group for rule in release.of_kind("PrometheusRule") for group in rule["spec"]["groups"]]
    assert groups == [g for path in RULES for g in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]


def test_an_alert_leads_to_its_runbook_wherever_that_is_kept() -> None:
    values = values_of(CASES["ha"])
    values["metrics"]["prometheusRule"]["runbookBaseUrl"] = "https://wiki.example/runbooks/"
    kept = rendered(values_of(CASES["ha"])).of_kind("PrometheusRule")
    moved = rendered(values).of_kind("PrometheusRule")
    urls = [text for text in strings_in(moved) if text.startswith(("https://wiki.example/", "docs/runbooks/"))]
    files = [text for text in strings_in(kept) if text.startswith("docs/runbooks/")]
    assert urls == [f"https://wiki.example/runbooks/{file.removeprefix('docs/runbooks/')}" for file in files]


def test_every_dashboard_reaches_grafana_as_it_is() -> None:
    release = rendered(values_of(CASES["ha"]))
    found = {
        name: json.loads(text)
        for config in release.of_kind("ConfigMap")
        if config["metadata"]["labels"].get("grafana_dashboard") == "1"
        for name, text in config["data"].items()
    }
    # A ConfigMap of Kubernetes holds 1 MiB.
    assert all(path.stat().st_size < 900_000 for path in DASHBOARDS)
    assert found == {path.name: json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS}


def test_none_of_it_is_there_unless_asked_for() -> None:
    release = rendered({})
    for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule", "HorizontalPodAutoscaler", "Ingress", "HTTPRoute"):
        assert release.of_kind(kind) == []
