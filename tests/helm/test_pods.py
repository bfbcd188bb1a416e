"""How pods run: restricted, probed without harm, found by who looks for them, and drained before they stop."""

import re
import shutil
from pathlib import Path
from typing import Any

from devtools.chart.rendering import CHART, Release, rendered, values_of
from node.settings import Settings
from tests.helm.conftest import CASES
from tests.helm.objects import Json, labels_of, pod_specs

Containers = list[tuple[str, dict[str, Any]]]


# -- security --------------------------------------------------------------------------------------------------------
def test_every_container_is_restricted(containers: Containers) -> None:
    for name, container in containers:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["runAsNonRoot"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert "privileged" not in context


def test_every_pod_runs_as_a_number_that_is_not_root(pods: dict[str, Json]) -> None:
    for name, pod in pods.items():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"]), name


def test_no_pod_gets_a_token_or_variables_of_services(release: Release, pods: dict[str, Json]) -> None:
    """Kubernetes' own AIP_PORT=tcp://10.0.0.1:80, for a Service named aip, would keep a node from starting."""
    for name, pod in pods.items():
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert pod["spec"]["enableServiceLinks"] is False, name
    for account in release.of_kind("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_every_container_says_what_it_needs(containers: Containers) -> None:
    for name, container in containers:
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"]), name
        assert "memory" in resources["limits"], name


def test_whatever_is_written_to_is_a_volume_of_its_own(pods: dict[str, Json]) -> None:
    for name, pod in pods.items():
        volumes = {v["name"]: v for v in pod["spec"].get("volumes", [])}
        for container in pod["spec"]["containers"]:
            for mount in container.get("volumeMounts", []):
                volume = volumes.get(mount["name"], {"volumeClaimTemplate": mount["name"]})
                if {"configMap", "secret"} & set(volume):
                    assert mount["readOnly"] is True, (name, mount)


# -- probes ----------------------------------------------------------------------------------------------------------
def test_a_node_is_probed_on_its_internal_port(release: Release) -> None:
    container = release.named("Deployment", "-node")["spec"]["template"]["spec"]["containers"][0]
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {"metrics"}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    settings = release.named("ConfigMap", "-settings")["data"]
    assert ports == {"http": int(settings["AIP_PORT"]), "metrics": int(settings["AIP_METRICS_PORT"])}


def test_liveness_never_asks_redis(containers: Containers) -> None:
    """An outage of Redis must not restart every node, and disconnect every device, together."""
    for name, container in containers:
        probe = container.get("livenessProbe")
        if probe is None:
            assert name.endswith("-test")
            continue
        assert "/readyz" not in str(probe), name
        assert "exec" not in probe, name


def test_a_failover_of_redis_does_not_empty_the_service(release: Release) -> None:
    probe = release.named("Deployment", "-node")["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
    assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) >= Settings().deaf_after_s
    # An answer is late by redis_timeout_s, and half of it again, where Redis does not answer.
    assert probe["timeoutSeconds"] > Settings().redis_timeout_s * 1.5


# -- who finds whom --------------------------------------------------------------------------------------------------
def _fits(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_every_workload_selects_its_own_pods_and_no_others(release: Release, pods: dict[str, Json]) -> None:
    for workload in [*release.of_kind("Deployment"), *release.of_kind("StatefulSet")]:
        selector = workload["spec"]["selector"]["matchLabels"]
        name = workload["metadata"]["name"]
        assert [other for other, pod in pods.items() if _fits(selector, labels_of(pod))] == [name]


def test_every_service_finds_pods_with_its_ports(release: Release, pods: dict[str, Json]) -> None:
    for service in release.of_kind("Service"):
        found = [pod for pod in pods.values() if _fits(service["spec"]["selector"], labels_of(pod))]
        (pod,) = found
        names = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


def test_budgets_policies_and_spreads_are_about_pods_that_there_are(release: Release, pods: dict[str, Json]) -> None:
    selectors = [d["spec"]["selector"]["matchLabels"] for d in release.of_kind("PodDisruptionBudget")]
    for policy in release.of_kind("NetworkPolicy"):
        selectors.append(policy["spec"]["podSelector"]["matchLabels"])
    for pod in pods.values():
        for spread in pod["spec"].get("topologySpreadConstraints", []):
            assert _fits(spread["labelSelector"]["matchLabels"], labels_of(pod))
    for selector in selectors:
        assert len([pod for pod in pods.values() if _fits(selector, labels_of(pod))]) == 1


def test_a_port_that_a_policy_names_is_one_of_the_pod(release: Release, pods: dict[str, Json]) -> None:
    for policy in release.of_kind("NetworkPolicy"):
        selector = policy["spec"]["podSelector"]["matchLabels"]
        (pod,) = [pod for pod in pods.values() if _fits(selector, labels_of(pod))]
        names = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        asked = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert asked <= names


# -- coming and going ------------------------------------------------------------------------------------------------
def test_a_node_goes_only_when_another_is_ready(release: Release) -> None:
    strategy = release.named("Deployment", "-node")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_a_node_is_drained_before_it_is_told_to_stop_and_has_the_time_for_it(release: Release) -> None:
    spec = release.named("Deployment", "-node")["spec"]["template"]["spec"]
    command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:2] == ["aipctl", "drain"]
    seconds = {name: float(value) for name, value in (flag.lstrip("-").split("=") for flag in command[2:])}
    data = release.named("ConfigMap", "-settings")["data"]
    known = {name: value for name, value in data.items() if name.startswith(("AIP_DRAIN_", "AIP_SHUTDOWN_"))}
    settings = Settings.model_validate({name.removeprefix("AIP_").lower(): value for name, value in known.items()})
    assert seconds["wait"] == settings.drain_deadline_s
    longest_s = seconds["pause"] + settings.drain_deadline_s + settings.drain_linger_s + settings.shutdown_timeout_s
    assert spec["terminationGracePeriodSeconds"] >= longest_s + 5


def test_nodes_start_anew_when_what_they_were_told_has_changed() -> None:
    checksums = set()
    for value in (500, 600, 500):
        deployment = rendered({"settings": {"connect_rate_per_s": value}}).named("Deployment", "-node")
        checksums.add(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"])
    assert len(checksums) == 2


def test_a_new_version_of_the_chart_alone_starts_nobody_anew(tmp_path: Path) -> None:
    """Its nodes would make every device move, its Redis would be away."""
    newer = tmp_path / "chart"
    shutil.copytree(CHART, newer)
    text = (newer / "Chart.yaml").read_text(encoding="utf-8")
    (newer / "Chart.yaml").write_text(re.sub(r"(?m)^version: .*$", "version: 9.9.9", text), encoding="utf-8")
    releases = [rendered({}, chart=chart).documents for chart in (CHART, newer)]
    assert ["9.9.9" in str(release) for release in releases] == [False, True]
    before, after = ([pod for _, pod in pod_specs(d for d in r if d["kind"] != "Pod")] for r in releases)
    assert before == after


def test_with_autoscaling_nobody_else_says_how_many() -> None:
    release = rendered(values_of(CASES["ha"]))
    assert "replicas" not in release.named("Deployment", "-node")["spec"]
    (hpa,) = release.of_kind("HorizontalPodAutoscaler")
    assert hpa["spec"]["scaleTargetRef"]["name"] == release.named("Deployment", "-node")["metadata"]["name"]
    by = hpa["spec"]["metrics"][0]["pods"]
    assert by == {"metric": {"name": "aip_connections"}, "target": {"type": "AverageValue", "averageValue": "6000"}}
    assert hpa["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300


def test_keda_scales_by_the_same_figure_and_makes_the_hpa_itself() -> None:
    values = values_of(CASES["ha"])
    values["autoscaling"]["keda"] = {"enabled": True, "prometheusAddress": "http://prometheus.monitoring:9090"}
    release = rendered(values)
    assert release.of_kind("HorizontalPodAutoscaler") == []
    (scaled,) = release.of_kind("ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] == release.named("Deployment", "-node")["metadata"]["name"]
    asked = scaled["spec"]["triggers"][0]["metadata"]
    assert asked["query"] == 'sum(aip_connections{namespace="agents",pod=~"aip-aip-cluster-node-.*"})'
    assert (asked["threshold"], asked["serverAddress"]) == ("6000", "http://prometheus.monitoring:9090")
    (hpa,) = rendered(values_of(CASES["ha"])).of_kind("HorizontalPodAutoscaler")
    config = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
    assert config["behavior"] == hpa["spec"]["behavior"]


def test_a_single_pod_is_neither_spread_nor_guarded() -> None:
    release = rendered({"replicaCount": 1, "nginx": {"replicaCount": 1}})
    assert release.of_kind("PodDisruptionBudget") == []
    for _, pod in ((d["metadata"]["name"], d["spec"]["template"]) for d in release.of_kind("Deployment")):
        assert "topologySpreadConstraints" not in pod["spec"]
