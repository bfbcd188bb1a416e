"""The chart with each of its `ci/*-values.yaml`, rendered once for all tests."""

from pathlib import Path
from typing import Any

import pytest

from devtools.chart.rendering import CI_VALUES, Release, rendered, values_of
from tests.helm.objects import Json, pod_specs

CASES = {path.name.removesuffix("-values.yaml"): path for path in CI_VALUES}
_releases: dict[str, Release] = {}


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> str:
    """The name of a file of values."""
    return str(request.param)


@pytest.fixture
def values_path(case: str) -> Path:
    """That file."""
    return CASES[case]


@pytest.fixture
def release(case: str) -> Release:
    """What the chart renders to with it."""
    if case not in _releases:
        _releases[case] = rendered(values_of(CASES[case]))
    return _releases[case]


@pytest.fixture
def pods(release: Release) -> dict[str, Json]:
    """The specification of every pod of the release, by the name of what makes it."""
    return dict(pod_specs(release.documents))


@pytest.fixture
def containers(pods: dict[str, Json]) -> list[tuple[str, dict[str, Any]]]:
    """Every container, with the name of what makes its pod."""
    return [(name, container) for name, pod in pods.items() for container in pod["spec"]["containers"]]
