"""Every query of every dashboard, put to a Prometheus as Grafana would put it, and what it answered."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from devtools.dashboards.boards import BOARDS
from devtools.dashboards.grafana import VARIABLES
from devtools.dashboards.model import RATE, Dashboard, Panel, Query
from devtools.dashboards.prometheus import Prometheus, QueryFailed, Series

__all__ = ["ALL", "Asked", "ask_everything", "filled_in", "offered"]

# What Grafana puts in for `All` where a label may be missing.
ALL = ".*"
# With samples every second, what `$__rate_interval` stands for is short.
RATE_S = 10


@dataclass(frozen=True)
class Asked:
    """A query with its place, what Prometheus was asked, and its answer, or why there is none."""

    dashboard: Dashboard
    panel: Panel
    query: Query
    promql: str
    series: list[Series]
    error: str = ""

    @property
    def place(self) -> str:
        """Where to find it."""
        return f"{self.dashboard.title} / {self.panel.title} / {self.query.legend}"

    @property
    def complaint(self) -> str:
        """What is wrong with the answer; empty if nothing is."""
        if self.error:
            return f"{self.place}: {self.error}: {self.promql}"
        if not any(series.says_something for series in self.series):
            return f"{self.place}: {'not a number' if self.series else 'empty'}: {self.promql}"
        return ""


def offered(prometheus: Prometheus) -> dict[str, list[str]]:
    """The values that each variable offers, all of those before it being chosen."""
    chosen: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for name, series, may_be_missing in VARIABLES:
        found[name] = prometheus.label_values(name, filled_in(series, chosen))
        chosen[name] = ALL if may_be_missing else _any_of(found[name])
    return found


def filled_in(promql: str, chosen: Mapping[str, str], *, rate_s: int = RATE_S) -> str:
    """The query with Grafana's variables replaced."""
    text = promql.replace(RATE, f"{rate_s}s")
    # A name is replaced as a whole.
    return re.sub(r"\$(\w+)", lambda found: chosen[found[1]], text)


def ask_everything(
    prometheus: Prometheus,
    until: float,
    *,
    since: float | None = None,
    instance: str | None = None,
    rate_s: int = RATE_S,
) -> Iterator[Asked]:
    """Asks all queries, of all nodes or of one: as it was at `until`, or second by second from `since` on.

    `rate_s` is the window of rates; one as long as the run bears a machine that stands still for some seconds.
    """
    values = offered(prometheus)
    chosen = {name: ALL if may_be_missing else _any_of(values[name]) for name, _, may_be_missing in VARIABLES}
    if instance is not None:
        chosen |= {name: _any_of(found) for name, found in values.items() if found} | {"instance": _any_of([instance])}
    for dashboard in BOARDS:
        for panel in dashboard.panels():
            for query in panel.queries:
                promql = filled_in(query.promql, chosen, rate_s=rate_s)
                try:
                    if since is None:
                        series = prometheus.query(promql, until)
                    else:
                        series = prometheus.query_range(promql, since, until, 1)
                    yield Asked(dashboard, panel, query, promql, series)
                except QueryFailed as exc:
                    yield Asked(dashboard, panel, query, promql, [], str(exc))


def _any_of(values: list[str]) -> str:
    """As Grafana writes a choice of several into a regular expression, inside a string of PromQL."""
    escaped = [re.sub(r"([.*+?^${}()|\[\]\\/])", r"\\\\\1", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
