"""`compose.yaml` and what it mounts, as far as it can be told without a container: each file by its own program."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadbalancer.render import main
from node.settings import Settings
from tests.integration.harness.nginx import nginx_binary
from tests.integration.harness.processes import ROOT, free_port
from tests.support.promtool import promtool

COMPOSE = ROOT / "compose.yaml"
MOUNTED = ROOT / "deploy" / "compose"
# Read by uvicorn.
FOREIGN = {"FORWARDED_ALLOW_IPS"}
DOCUMENT: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
NODES = [name for name in SERVICES if name.startswith("node-")]


def node_addresses() -> list[str]:
    return [SERVICES[name]["networks"]["cluster"]["ipv4_address"] for name in NODES]


def test_it_is_what_the_compose_specification_allows() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_of_nginx_is_what_the_command_beside_it_renders(tmp_path: Path) -> None:
    text = " ".join(line.lstrip("# ") for line in COMPOSE.read_text().splitlines() if line.startswith("#"))
    command = re.search(r"python -m loadbalancer\.render (.*? --output) (\S+)", text)
    assert command
    assert main([*shlex.split(command[1]), str(tmp_path / "nginx.conf")]) == 0
    rendered = (tmp_path / "nginx.conf").read_text()
    assert (ROOT / command[2]).read_text() == rendered
    assert set(re.findall(r"server (\S+):5000 ", rendered)) == set(node_addresses())


def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    text = (MOUNTED / "nginx.conf").read_text()
    # Its folder is a tmpfs there, and its ports are its own.
    text = text.replace("/run/aip-nginx", str(tmp_path))
    for port in ("5000", "5080"):
        text = text.replace(f"listen *:{port}", f"listen 127.0.0.1:{free_port()}")
    config = tmp_path / "nginx.conf"
    config.write_text(text)
    done = subprocess.run(
        [nginx_binary(), "-t", "-p", str(tmp_path), "-c", str(config), "-e", "stderr"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_prometheus_takes_its_configuration_with_the_rules_of_the_chart(tmp_path: Path) -> None:
    text = (MOUNTED / "prometheus.yml").read_text()
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus/rules", str(ROOT / "helm" / "aip-cluster" / "rules")))
    done = subprocess.run([promtool(), "check", "config", str(config)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"SUCCESS: \d+ rules found", done.stdout), "no rules were read"

    (job,) = [job for job in yaml.safe_load(text)["scrape_configs"] if job["job_name"] == "aip-cluster"]
    port = SERVICES[NODES[0]]["environment"]["AIP_METRICS_PORT"]
    assert job["static_configs"][0]["targets"] == [f"{name}:{port}" for name in NODES]


def test_everything_that_is_mounted_is_there() -> None:
    volumes = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", [])]
    for source, *_ in volumes:
        if source.startswith("."):
            assert (ROOT / source).exists(), source
        else:
            assert source in DOCUMENT["volumes"]
    assert (ROOT / "Dockerfile").exists()


def test_grafana_finds_its_dashboards_and_its_data_where_they_are() -> None:
    folder = MOUNTED / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards" / "aip-cluster.yaml").read_text())["providers"]
    targets = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    assert provider["options"]["path"] in targets
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert source["url"] == "http://prometheus:9090"


@pytest.mark.parametrize("name", NODES)
def test_every_variable_of_a_node_is_a_setting(name: str) -> None:
    variables = set(SERVICES[name]["environment"]) - FOREIGN
    assert variables <= {f"AIP_{setting.upper()}" for setting in Settings.model_fields}
    assert SERVICES[name]["environment"]["AIP_NODE_ID"] == name


def test_nodes_have_the_time_that_their_drain_takes() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    longest_s = defaults["drain_deadline_s"] + defaults["drain_linger_s"] + defaults["shutdown_timeout_s"]
    for name in NODES:
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > longest_s


def test_nothing_is_published_beyond_this_machine_unless_asked_for() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith(("127.0.0.1:", "${AIP_PUBLISH:-127.0.0.1}:")) for port in published)
    # Of what may be published, only what nginx shows to everybody.
    assert [port for port in published if "AIP_PUBLISH" in port] == ["${AIP_PUBLISH:-127.0.0.1}:${AIP_PORT:-5000}:5000"]


def test_nothing_of_ours_has_more_rights_than_it_needs() -> None:
    for name in (*NODES, "nginx", "prometheus", "grafana"):
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
