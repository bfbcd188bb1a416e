"""How many objects of which kind the chart is, for each of its `ci/*-values.yaml`."""

from collections import Counter

from devtools.chart.rendering import CI_VALUES, rendered, values_of

__all__ = ["summary"]


def summary() -> str:
    """A table in Markdown: a row for each kind, a column for each file of values. Raises HelmError."""
    counts = {
        path.name.removesuffix("-values.yaml"): Counter(d["kind"] for d in rendered(values_of(path)).documents)
        for path in CI_VALUES
    }
    kinds = sorted({kind for count in counts.values() for kind in count})
    rows = [["kind", *counts], ["---", *("--:" for _ in counts)]]
    rows += [[kind, *(str(count[kind] or "") for count in counts.values())] for kind in kinds]
    rows.append(["**all**", *(str(count.total()) for count in counts.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
