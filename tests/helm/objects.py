"""Looking into objects of Kubernetes."""

from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["Json", "labels_of", "pod_specs", "strings_in"]

Json = dict[str, Any]


def pod_specs(documents: Iterable[Json]) -> Iterator[tuple[str, Json]]:
    """Every pod that the objects are or make: its metadata and its spec."""
    for document in documents:
        if document["kind"] == "Pod":
            yield document["metadata"]["name"], document
        elif document["kind"] in {"Deployment", "StatefulSet"}:
            yield document["metadata"]["name"], document["spec"]["template"]


def labels_of(pod: Json) -> dict[str, str]:
    """A pod's labels."""
    labels: dict[str, str] = pod["metadata"]["labels"]
    return labels


def strings_in(value: Any) -> Iterator[str]:
    """Every string in a value, keys of mappings too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings_in(key)
            yield from strings_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_in(inner)
