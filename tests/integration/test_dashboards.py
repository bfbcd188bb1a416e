"""A real Prometheus that looked on while a real cluster worked: every panel and every rule has something to say."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.dashboards.answers import ask_everything, offered
from devtools.dashboards.lab import LABELS, Observed, Phase, observed
from devtools.dashboards.prometheus import prometheus_program
from tests.support.redis_server import require_redis
from tests.support.required import require

pytestmark = pytest.mark.integration

# Rates over all of it.
WINDOW_S = 30
RUN = (Phase(20, 6, devices=10), Phase(20, 6, devices=10))
# What the load provokes: these must be more than a zero that is exposed from the start.
LIVELY = {
    "Accepted",
    "Answers of the model",
    "Bytes",
    "Devices",
    "Dispatches",
    "Dispatches by outcome",
    "End to end",
    "Ended",
    "From dispatch to device",
    "From dispatch to end",
    "Heard",
    "In",
    "Leases held",
    "Memory",
    "Messages",
    "Not accepted",
    "Out",
    "Processor",
    "Ready nodes",
    "Registered",
    "Registrations",
    "Renewals of leases",
    "Requests by route",
    "Round trips",
    "Round trips per dispatch",
    "Running",
    "Said",
    "Sessions that ended",
    "Subscribed",
    "To handle a message",
    "Tokens per hour",
    "Tokens per second",
    "Until a dispatch is answered",
    "Until the model answers",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """A cluster that worked for a dozen seconds, and the Prometheus that saw it."""
    require_redis()
    require(prometheus_program(), "prometheus")
    directory: Path = tmp_path_factory.mktemp("prometheus")
    lab = observed(directory, RUN)
    # Not a test's loop: one that lives as long as the module's tests.
    with asyncio.Runner() as loop:
        seen = loop.run(lab.__aenter__())
        try:
            yield seen
        finally:
            loop.run(lab.__aexit__(None, None, None))


def test_every_panel_answers_for_all_nodes_and_for_each(run: Observed) -> None:
    for instance in (None, *run.instances):
        answers = list(ask_everything(run.prometheus, run.until, instance=instance, rate_s=WINDOW_S))
        assert len(answers) > 100
        assert [asked.complaint for asked in answers if asked.complaint] == [], instance


def test_no_panel_is_dead_on_an_idle_cluster(run: Observed) -> None:
    """Before anything was done only durations are unknown: nothing has lasted any time yet."""
    answers = [asked for asked in ask_everything(run.prometheus, run.since, rate_s=WINDOW_S) if asked.complaint]
    assert [asked.complaint for asked in answers if "histogram_quantile" not in asked.promql] == []


def test_panels_show_what_was_done(run: Observed) -> None:
    shown = {
        asked.panel.title
        for asked in ask_everything(run.prometheus, run.until, since=run.since, rate_s=WINDOW_S)
        if any(number > 0 for series in asked.series for _, number in series.points)
    }
    assert LIVELY - shown == set()


def test_variables_offer_what_was_scraped(run: Observed) -> None:
    assert offered(run.prometheus) == {
        **{name: [value] for name, value in LABELS.items()},
        "instance": sorted(run.instances),
    }


def test_every_rule_is_evaluated_and_every_record_has_values(run: Observed) -> None:
    rules = [rule for group in run.prometheus.rule_groups() for rule in group["rules"]]
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    records = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert records
    for name in records:
        found = run.prometheus.query(name, run.until)
        assert any(series.says_something for series in found), name


def test_nothing_fires_in_a_healthy_cluster(run: Observed) -> None:
    alerts = run.prometheus.query('ALERTS{alertstate="firing"}', run.until)
    # A machine that stands still for seconds makes a node lose its lease, and then the alert is right.
    assert {series.labels["alertname"] for series in alerts} - {"AipLeaseLost"} == set()
