"""Helm and Kubernetes have nothing against the chart."""

import functools
from pathlib import Path

import kubernetes_validate
import pytest
from kubernetes_validate import utils

from devtools.chart.rendering import CHART, Release, complaints, rendered, values_of
from devtools.chart.schema import SCHEMA, settings_schema, with_settings
from node.settings import Settings
from tests.helm.conftest import CASES

VERSIONS = ("1.27", "1.30", "1.33", "1.37")
# Kinds that an operator brings along: Kubernetes itself has no schema of them.
BROUGHT_ALONG = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute"}


@pytest.fixture
def schemas_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The definitions of a version are megabytes, and are read for each object otherwise."""
    monkeypatch.setattr(utils, "schema_contents", _schema_contents)


_schema_contents = functools.cache(utils.schema_contents)


def test_lint_is_content(values_path: Path) -> None:
    assert complaints(values_of(values_path)) == []


@pytest.mark.usefixtures("schemas_are_read_once")
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_one_of_kubernetes(release: Release, version: str) -> None:
    checked = [d for d in release.documents if d["kind"] not in BROUGHT_ALONG]
    assert checked
    for document in checked:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as exc:
            pytest.fail(f"{document['kind']} {document['metadata']['name']}, {list(exc.path)}: {exc.message}")


@pytest.mark.usefixtures("schemas_are_read_once")
def test_what_kubernetes_does_not_know_would_be_found() -> None:
    """Otherwise the test above passes whatever is rendered."""
    deployment = rendered({}).named("Deployment", "-node")
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def test_there_are_values_for_each_way_of_use() -> None:
    assert set(CASES) >= {"default", "external-redis", "sentinel", "cluster", "ha", "tls"}


def test_names_are_the_releases_own(release: Release) -> None:
    """Two releases in one namespace have nothing in common but what they were given."""
    names = [(d["kind"], d["metadata"]["name"]) for d in release.documents]
    assert len(set(names)) == len(names)
    assert all(name.startswith("aip-aip-cluster") for _, name in names)


@pytest.mark.parametrize("name", ["a", "aip-cluster", "b" * 53])
def test_names_fit_whatever_the_release_is_called(name: str) -> None:
    for document in rendered(values_of(CASES["ha"]), name=name).documents:
        assert len(document["metadata"]["name"]) <= 63
        for value in document["metadata"].get("labels", {}).values():
            assert len(value) <= 63


def test_the_schema_knows_the_nodes_settings() -> None:
    text = SCHEMA.read_text(encoding="utf-8")
    assert with_settings(text) == text, "node/settings.py has changed: run scripts/chart schema"
    assert set(settings_schema()["properties"]) < set(Settings.model_fields)


def test_the_chart_is_of_the_version_of_the_package() -> None:
    import tomllib

    project = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chart = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    assert f'appVersion: "{project["version"]}"' in chart
