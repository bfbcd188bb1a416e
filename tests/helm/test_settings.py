"""What nodes are told: settings that there are, numbers as numbers, addresses that parse, secrets only from Secrets."""

import re
from typing import Any

import pytest

from devtools.chart.rendering import Release, rendered, values_of
from node.settings import Settings
from shared_state.redis.url import parse_redis_url
from tests.helm.conftest import CASES
from tests.helm.objects import strings_in

SECRET_SETTINGS = {"api_key", "redis_password", "redis_sentinel_password", "llm_api_key", "tool_secrets"}


def _node(release: Release) -> dict[str, Any]:
    container: dict[str, Any] = release.named("Deployment", "-node")["spec"]["template"]["spec"]["containers"][0]
    return container


def _told(release: Release) -> dict[str, str]:
    data: dict[str, str] = release.named("ConfigMap", "-settings")["data"]
    return data


def test_every_variable_is_a_setting_of_a_node(release: Release) -> None:
    names = [*_told(release), *(variable["name"] for variable in _node(release)["env"])]
    assert len(set(names)) == len(names)
    ours = {name.removeprefix("AIP_").lower() for name in names if name.startswith("AIP_")}
    assert ours <= set(Settings.model_fields)
    assert "node_id" in ours


def test_a_node_takes_what_it_is_told(release: Release) -> None:
    told = {name.removeprefix("AIP_").lower(): value for name, value in _told(release).items()}
    settings = Settings.model_validate(told)
    assert settings.port == 5000


def test_large_numbers_stay_what_they_are() -> None:
    told = _told(rendered({"settings": {"max_file_bytes": 5368709120, "connect_rate_per_s": 0.5}}))
    assert told["AIP_MAX_FILE_BYTES"] == "5368709120"
    assert told["AIP_CONNECT_RATE_PER_S"] == "0.5"


def test_a_boolean_and_an_empty_text_reach_the_node() -> None:
    told = _told(rendered({"settings": {"llm_stream": True, "allowed_origins": ""}}))
    assert (told["AIP_LLM_STREAM"], told["AIP_ALLOWED_ORIGINS"]) == ("true", "")


def test_without_a_key_a_node_answers_to_the_names_of_the_release() -> None:
    exposed = {
        "auth": {"allowAnonymous": True},
        "ingress": {"enabled": True, "hosts": ["aip.example"]},
        "settings": {"allowed_hosts": "*.internal.example, aip"},
    }
    names = _told(rendered(exposed))["AIP_ALLOWED_HOSTS"].split(",")
    service = names[0]
    assert names[1:4] == [f"{service}.{tail}" for tail in _inside(names[1])]
    assert {f"{service}-nodes", "aip.example", "*.internal.example", "aip"} < set(names)
    assert len(set(names)) == len(names)
    Settings(allowed_hosts=",".join(names))


def _inside(name: str) -> list[str]:
    namespace = name.partition(".")[2]
    return [namespace, f"{namespace}.svc", f"{namespace}.svc.cluster.local"]


def test_with_a_key_a_node_answers_to_any_name_unless_some_are_set() -> None:
    keyed = {"auth": {"existingSecret": "aip-key"}}
    assert "AIP_ALLOWED_HOSTS" not in _told(rendered(keyed))
    told = _told(rendered(keyed | {"settings": {"allowed_hosts": "aip.example"}}))
    assert told["AIP_ALLOWED_HOSTS"].endswith(",aip.example")


@pytest.mark.parametrize(
    ("values", "known"),
    [
        ({}, True),
        ({"service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}}, True),
        ({"service": {"type": "LoadBalancer"}}, False),
        ({"ingress": {"enabled": True, "hosts": ["aip.example"]}}, False),
        ({"ingress": {"enabled": True, "hosts": ["aip.example"]}, "nginx": {"trustedProxies": ["10.0.0.0/8"]}}, True),
    ],
)
def test_an_address_has_a_share_where_it_is_the_address_of_a_client(values: dict[str, Any], known: bool) -> None:
    release = rendered({"auth": {"existingSecret": "aip-key"}} | values)
    assert ("AIP_ADDRESS_SHARE" in _told(release)) is not known
    assert ("limit_conn aip_connections 2048;" in release.named("ConfigMap", "-nginx")["data"]["nginx.conf"]) is known


def test_behind_an_nginx_that_nodes_do_not_believe_all_clients_are_one_address() -> None:
    assert _told(rendered({"networkPolicy": {"enabled": False}}))["AIP_ADDRESS_SHARE"] == "1"
    set_by_hand = {"networkPolicy": {"enabled": False}, "settings": {"address_share": 0.5}}
    assert _told(rendered(set_by_hand))["AIP_ADDRESS_SHARE"] == "0.5"


def test_a_node_believes_what_nginx_says_of_clients_only_where_nobody_else_gets_in() -> None:
    def believed(values: dict[str, Any]) -> list[str]:
        return [v["value"] for v in _node(rendered(values))["env"] if v["name"] == "FORWARDED_ALLOW_IPS"]

    assert believed({}) == ["*"]
    assert believed({"networkPolicy": {"enabled": False}}) == []
    assert believed({"nginx": {"enabled": False}}) == []


# -- Redis -----------------------------------------------------------------------------------------------------------
def test_the_address_of_redis_is_one_without_a_password(release: Release) -> None:
    url = _told(release).get("AIP_REDIS_URL")
    if url is None:
        (variable,) = [v for v in _node(release)["env"] if v["name"] == "AIP_REDIS_URL"]
        assert "secretKeyRef" in variable["valueFrom"]
        return
    target = parse_redis_url(url)
    assert target.options.get("password") is None
    assert target.sentinel_options.get("password") is None


@pytest.mark.parametrize(
    ("case", "kind"), [("external-redis", "single"), ("sentinel", "sentinel"), ("cluster", "cluster")]
)
def test_each_way_to_redis_is_what_a_node_reads(case: str, kind: str) -> None:
    values = values_of(CASES[case])
    target = parse_redis_url(_told(rendered(values))["AIP_REDIS_URL"])
    assert target.kind == kind
    assert [f"{host}:{port}" for host, port in target.addresses] == values["redis"]["addresses"]
    tls = values["redis"].get("tls", {}).get("enabled", False)
    assert target.options.get("ssl", False) is tls


def test_the_servers_and_the_sentinels_have_lines_and_passwords_of_their_own() -> None:
    release = rendered(values_of(CASES["sentinel"]))
    target = parse_redis_url(_told(release)["AIP_REDIS_URL"])
    assert target.service == "aip"
    assert target.options["ssl"] is True
    assert "ssl" not in target.sentinel_options
    assert target.sentinel_options["username"] == "watch"
    keys = {v["name"]: v["valueFrom"]["secretKeyRef"]["key"] for v in _node(release)["env"] if "REDIS" in v["name"]}
    assert keys == {"AIP_REDIS_PASSWORD": "redis-password", "AIP_REDIS_SENTINEL_PASSWORD": "sentinel-password"}


def test_every_file_that_a_setting_names_is_mounted(release: Release) -> None:
    mounts = [mount["mountPath"] for mount in _node(release)["volumeMounts"]]
    named = [path for value in _told(release).values() for path in re.findall(r"/etc/aip/[^&]+", value)]
    for path in named:
        assert path.rpartition("/")[0] in mounts
    # Apart from /tmp, and an address that is a secret as a whole and names its files itself.
    if "AIP_REDIS_URL" in _told(release):
        assert len(mounts) - 1 == len({path.rpartition("/")[0] for path in named})


def test_the_bundled_redis_evicts_nothing_and_keeps_what_it_has() -> None:
    release = rendered({"redis": {"existingSecret": "aip-redis"}})
    conf = release.named("ConfigMap", "-redis")["data"]["redis.conf"].splitlines()
    assert {"maxmemory-policy noeviction", "appendonly yes"} <= set(conf)
    (claim,) = release.named("StatefulSet", "-redis")["spec"]["volumeClaimTemplates"]
    container = release.named("StatefulSet", "-redis")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": claim["metadata"]["name"], "mountPath": "/data"} in container["volumeMounts"]
    for variables in (container["env"], _node(release)["env"]):
        used = [v["valueFrom"]["secretKeyRef"] for v in variables if "secretKeyRef" in v.get("valueFrom", {})]
        assert used == [{"name": "aip-redis", "key": "redis-password"}]


# -- secrets ---------------------------------------------------------------------------------------------------------
def test_the_chart_makes_no_secret_and_names_none_in_the_open(release: Release) -> None:
    assert release.of_kind("Secret") == []
    for variable in SECRET_SETTINGS:
        assert f"AIP_{variable.upper()}" not in _told(release)
    for variable in _node(release)["env"]:
        if variable["name"].removeprefix("AIP_").lower() in SECRET_SETTINGS:
            assert set(variable["valueFrom"]) == {"secretKeyRef"}


def test_config_maps_hold_nothing_that_looks_like_a_secret(release: Release) -> None:
    for config in release.of_kind("ConfigMap"):
        for key, text in config["data"].items():
            if key.endswith(".json"):
                continue
            said = re.sub(r"(?m)^\s*#.*$", "", text)
            assert not re.search(r"(?i)(password|token|secret|api_key|requirepass)\s*[=: ]\s*[^\s\"/]", said), key
            assert not re.search(r"//[^/\s]*:[^/\s]*@", said), key


def test_every_secret_that_is_used_was_named_in_the_values(case: str, release: Release) -> None:
    named = set(strings_in(values_of(CASES[case])))
    for document in release.documents:
        for reference in _references(document):
            assert reference in named


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for inner in value for name in _references(inner)]
    if not isinstance(value, dict):
        return []
    found = [value["secretKeyRef"]["name"]] if "secretKeyRef" in value else []
    found += [value["secretName"]] if "secretName" in value else []
    return found + [name for inner in value.values() for name in _references(inner)]
