"""Values that cannot work are refused before anything is installed, with a sentence that says what to change."""

from typing import Any

import pytest

from devtools.chart.rendering import refused_values, rendered

LB = {"service": {"type": "LoadBalancer"}}

CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"redis": {"mode": "embedded"}}, "set replicaCount to 1"),
    ({"redis": {"mode": "embedded"}, "replicaCount": 1, "autoscaling": {"enabled": True}}, "set replicaCount to 1"),
    ({"redis": {"mode": "embedded", "existingSecret": "s"}, "replicaCount": 1}, "there is no Redis to log in to"),
    ({"redis": {"mode": "single"}}, "needs redis.addresses"),
    ({"redis": {"mode": "single", "addresses": ["a:1", "b:2"]}}, "has one address"),
    ({"redis": {"mode": "sentinel", "addresses": ["a:1"]}}, "needs redis.sentinel.service"),
    ({"redis": {"addresses": ["a:1"]}}, "redis.addresses is not used with redis.mode bundled"),
    ({"redis": {"mode": "cluster", "addresses": ["a:1"], "database": 1}}, "has only one"),
    ({"redis": {"mode": "single", "urlKey": "url"}}, "set redis.existingSecret, too"),
    ({"redis": {"urlKey": "url", "existingSecret": "s"}}, "set redis.mode to single, sentinel or cluster"),
    ({"redis": {"mode": "single", "addresses": ["a:1"], "tls": {"caSecret": "s"}}}, "need redis.tls.enabled"),
    ({"redis": {"tls": {"enabled": True}}}, "has no TLS"),
    ({"settings": {"min_replicas": 1}}, "there is no replica"),
    ({"terminationGracePeriodSeconds": 154}, "is 154 and must be at least 155"),
    ({"settings": {"drain_deadline_s": 300}}, "is 170 and must be at least 325"),
    ({"settings": {"drain_linger_s": 25.5}}, "is 170 and must be at least 176"),
    ({"drain": {"preStopPauseSeconds": 21}}, "is 170 and must be at least 171"),
    ({"nginx": {"drainSeconds": 300}}, "nginx.terminationGracePeriodSeconds is 45 and must be at least 310"),
    (LB, "set auth.existingSecret"),
    ({"ingress": {"enabled": True, "hosts": ["a.example"]}}, "set auth.existingSecret"),
    ({"httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}}, "set auth.existingSecret"),
    ({"auth": {"existingSecret": "s"}, "ingress": {"enabled": True}}, "needs ingress.hosts"),
    ({"auth": {"existingSecret": "s"}, "httpRoute": {"enabled": True}}, "needs httpRoute.parentRefs"),
    (
        {
            "auth": {"existingSecret": "s"},
            "nginx": {"tls": {"existingSecret": "t"}},
            "ingress": {"enabled": True, "hosts": ["a.example"]},
        },
        "ends TLS itself",
    ),
    ({"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}}, "minReplicas is above"),
    ({"autoscaling": {"enabled": True, "connectionsPerPod": 0, "cpuUtilization": 0}}, "something to scale by"),
    ({"autoscaling": {"enabled": True, "keda": {"enabled": True}}}, "needs autoscaling.keda.prometheusAddress"),
    ({"podDisruptionBudget": {"minAvailable": 1}}, "takes one of them"),
    ({"podDisruptionBudget": {"maxUnavailable": None}}, "needs maxUnavailable or minAvailable"),
    ({"metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}}, "twice"),
    ({"metrics": {"port": 5000}}, "metrics are not public"),
    ({"extraEnv": [{"name": "AIP_API_KEY", "value": "x"}]}, "belong into settings"),
]


@pytest.mark.parametrize(("values", "sentence"), CONTRADICTIONS, ids=[sentence for _, sentence in CONTRADICTIONS])
def test_values_that_contradict_each_other_are_refused_with_a_sentence(values: dict[str, Any], sentence: str) -> None:
    assert sentence in refused_values(values)


SCHEMA: list[tuple[dict[str, Any], str]] = [
    ({"replicas": 3}, "replicas"),
    ({"replicaCount": 0}, "replicaCount"),
    ({"replicaCount": "three"}, "replicaCount"),
    ({"redis": {"mode": "sentinal"}}, "/redis/mode"),
    ({"redis": {"password": "secret"}}, "password"),
    ({"redis": {"mode": "single", "addresses": ["redis://host:6379"]}}, "/redis/addresses/0"),
    ({"auth": {"apiKey": "secret"}}, "apiKey"),
    ({"settings": {"sesion_timeout_s": 5}}, "sesion_timeout_s"),
    ({"settings": {"session_timeout_s": -1}}, "/settings/session_timeout_s"),
    ({"settings": {"session_timeout_s": "long"}}, "/settings/session_timeout_s"),
    ({"settings": {"log_level": "LOUD"}}, "/settings/log_level"),
    ({"settings": {"api_key": "secret"}}, "api_key"),
    ({"settings": {"redis_url": "redis://:secret@h"}}, "redis_url"),
    ({"service": {"type": "Loadbalancer"}}, "/service/type"),
    ({"image": {"digest": "latest"}}, "/image/digest"),
    ({"nginx": {"trustedProxies": ["10.0.0.0/8; return 200"]}}, "/nginx/trustedProxies/0"),
    ({"nginx": {"resolver": "a; b"}}, "/nginx/resolver"),
    ({"topologySpread": {"whenUnsatisfiable": "Never"}}, "/topologySpread/whenUnsatisfiable"),
    ({"networkPolicy": {"enable": False}}, "enable"),
]


@pytest.mark.parametrize(("values", "named"), SCHEMA, ids=[f"{named} {i}" for i, (_, named) in enumerate(SCHEMA)])
def test_values_that_are_misspelt_or_of_another_kind_are_refused_by_name(values: dict[str, Any], named: str) -> None:
    refusal = refused_values(values)
    assert "schema" in refusal
    assert named in refusal


def test_a_cluster_without_a_key_can_be_meant() -> None:
    assert rendered({**LB, "auth": {"allowAnonymous": True}}).of_kind("Service")


def test_who_has_no_key_is_told_so() -> None:
    assert "There is no key" in rendered({}).notes
    assert "There is no key" not in rendered({"auth": {"existingSecret": "s"}}).notes


def test_who_tries_it_with_one_redis_is_told_what_that_is() -> None:
    assert "a trial" in rendered({}).notes
    assert "a trial" not in rendered({"redis": {"mode": "single", "addresses": ["a:1"]}}).notes
