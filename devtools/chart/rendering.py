"""Renders and lints the chart with Helm's own code (the package helm-python-sdk), without a cluster.

Raises HelmError, with Helm's own words, for values that the chart refuses.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart, HelmError, lint

from devtools.bootstrap import ROOT

__all__ = ["CHART", "CI_VALUES", "Release", "complaints", "refused_values", "rendered", "values_of"]

CHART = ROOT / "helm" / "aip-cluster"
# One file for each way in which the chart is meant to be used.
CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
NOTES = "templates/NOTES.txt"

Values = dict[str, Any]
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Release:
    """What Helm would send to Kubernetes, and what it would tell whoever asked for it."""

    documents: list[Document]
    notes: str

    def of_kind(self, kind: str) -> list[Document]:
        """The objects of a kind, in the order of the chart's files."""
        return [document for document in self.documents if document["kind"] == kind]

    def named(self, kind: str, suffix: str) -> Document:
        """The only object of `kind` whose name ends with `suffix`."""
        (found,) = [d for d in self.of_kind(kind) if d["metadata"]["name"].endswith(suffix)]
        return found


def values_of(path: Path) -> Values:
    """A file of values."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def rendered(values: Values, *, name: str = "aip", namespace: str = "agents", chart: Path = CHART) -> Release:
    """What the chart is with `values`. Raises HelmError."""
    with Chart.load(chart) as loaded:
        texts = loaded.render(values, name=name, namespace=namespace)
    notes = ""
    documents: list[Document] = []
    for path, text in sorted(texts.items()):
        if path.endswith(NOTES):
            notes = text
        else:
            documents += [document for document in yaml.safe_load_all(text) if document]
    return Release(documents, notes)


def complaints(values: Values) -> list[str]:
    """What `helm lint --strict` has against the chart with `values`."""
    report = lint(CHART, values, strict=True)
    return [*(f"{m['path']}: {m['error']}" for m in report["messages"]), *report["errors"]]


def refused_values(values: Values) -> str:
    """Why the chart refuses `values`; empty if it takes them."""
    try:
        rendered(values)
    except HelmError as exc:
        return str(exc)
    return ""
