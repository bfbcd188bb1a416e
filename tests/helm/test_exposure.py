"""Who reaches what: the public sees the public interface, metrics and drains are for the inside."""

import re
from typing import Any

import pytest

from devtools.chart.rendering import Release, rendered, values_of
from node.api.routes import ROUTES
from tests.helm.conftest import CASES

INTERNAL = {"/livez", "/readyz", "/metrics", "/api/nodes/self/drain"}
PUBLIC = {"/", "/ws", "/docs", "/openapi.json", *(operation.path for operation in ROUTES)} - INTERNAL
Paths = list[tuple[str, str]]


def _of_ingress() -> Paths:
    (ingress,) = rendered(values_of(CASES["external-redis"])).of_kind("Ingress")
    return [(p["pathType"], p["path"]) for p in ingress["spec"]["rules"][0]["http"]["paths"]]


def _of_route() -> Paths:
    (route,) = rendered(values_of(CASES["cluster"])).of_kind("HTTPRoute")
    matches = [match["path"] for rule in route["spec"]["rules"] for match in rule["matches"]]
    assert all(len(rule["matches"]) <= 8 for rule in route["spec"]["rules"])
    return [(match["type"].removeprefix("Path"), match["value"]) for match in matches]


def _reached(paths: Paths, path: str) -> bool:
    plain = re.sub(r"\{[^}]*\}", "x", path)
    return any(
        plain == given or (kind == "Prefix" and plain.startswith(given.rstrip("/") + "/")) for kind, given in paths
    )


@pytest.mark.parametrize("paths", [_of_ingress(), _of_route()], ids=["Ingress", "HTTPRoute"])
def test_a_route_leads_to_all_that_is_public_and_to_nothing_else(paths: Paths) -> None:
    assert {path for path in PUBLIC if not _reached(paths, path)} == set()
    assert {path for path in INTERNAL if _reached(paths, path)} == set()


def test_metrics_are_on_no_public_service(release: Release) -> None:
    for service in release.of_kind("Service"):
        ports = {port["targetPort"] for port in service["spec"]["ports"]}
        if "metrics" in ports:
            assert ports == {"metrics"}
            assert service["spec"]["clusterIP"] == "None"
    public = release.named("Service", "aip-aip-cluster")["spec"]
    assert {port["targetPort"] for port in public["ports"]} <= {"http", "https"}


def _policy(release: Release, component: str) -> dict[str, Any]:
    policy: dict[str, Any] = release.named("NetworkPolicy", f"-{component}")["spec"]
    return policy


def test_behind_nginx_a_node_is_reached_by_nginx_the_test_and_prometheus_only() -> None:
    rules = _policy(rendered({}), "node")["ingress"]
    by_port = {rule["ports"][0]["port"]: rule["from"] for rule in rules}
    components = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in by_port.pop("http")]
    assert sorted(components) == ["nginx", "test"]
    assert by_port == {
        "metrics": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    }


def test_a_policy_is_never_open_by_an_empty_list(release: Release) -> None:
    """`from: []` and `from` left out both mean anybody: only the public port may be open like that."""
    for policy in release.of_kind("NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            if not rule.get("from"):
                assert {port["port"] for port in rule["ports"]} <= {"http", "https"}
                assert not policy["metadata"]["name"].endswith("-redis")


def test_nodes_reach_names_redis_and_what_was_added() -> None:
    rules = _policy(rendered(values_of(CASES["external-redis"])), "node")["egress"]
    assert [port["port"] for port in rules[0]["ports"]] == [53, 53]
    assert [port["port"] for port in rules[1]["ports"]] == [6379, 6380]
    assert rules[1]["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "data"}}}]
    assert len(rules) == 2
    assert len(_policy(rendered(values_of(CASES["ha"])), "node")["egress"]) == 4


def test_the_bundled_redis_hears_nodes_only_and_asks_nobody() -> None:
    policy = _policy(rendered({}), "redis")
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "node"
    assert policy["egress"] == []
    assert "Egress" in policy["policyTypes"]


def test_the_test_asks_another_node_than_the_device_is_at() -> None:
    release = rendered({"auth": {"existingSecret": "k"}})
    (pod,) = release.of_kind("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    service = release.named("Service", "-nodes")["metadata"]["name"]
    assert container["command"][:3] == ["aipctl", "smoke", f"--nodes={service}.agents.svc.cluster.local:5000"]
    assert "--two" in container["command"]
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "k", "key": "api-key"}
    assert (
        container["image"] == release.named("Deployment", "-node")["spec"]["template"]["spec"]["containers"][0]["image"]
    )
