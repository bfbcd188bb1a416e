"""The rules for Prometheus: right, about metrics that exist, tried both ways, and each alert with its runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.promtool import promtool

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "helm" / "aip-cluster" / "rules" / "aip-cluster.rules.yaml"
CASES = sorted((ROOT / "tests" / "prometheus").glob("*.test.yaml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
CATALOGUE = (ROOT / "docs" / "METRICS.md").read_text(encoding="utf-8")
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
EVERY = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in EVERY if "alert" in rule}
SECTIONS = ["## What it means", "## How to see it", "## What to do", "## How to prevent it"]
PROMTOOL_S = 120.0
METRIC = re.compile(r"(?<![\w:])(?:aip|process)_[a-z_]+")

each_alert = pytest.mark.parametrize("name", ALERTS)


def run(*arguments: str | Path) -> str:
    """What promtool complains of."""
    done = subprocess.run(
        [promtool(), *arguments], capture_output=True, text=True, timeout=PROMTOOL_S, check=False, cwd=ROOT
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def tried() -> dict[str, list[bool]]:
    """For each alert, whether each of its cases fires."""
    found: dict[str, list[bool]] = {name: [] for name in ALERTS}
    for path in CASES:
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for expected in case["alert_rule_test"]:
                found[expected["alertname"]].append(bool(expected["exp_alerts"]))
    return found


def test_the_rules_are_right() -> None:
    assert run("check", "rules", RULES) == ""


@pytest.mark.parametrize("path", CASES, ids=[path.name.partition(".")[0] for path in CASES])
def test_alerts_fire_when_they_should_and_are_silent_when_they_should(path: Path) -> None:
    assert run("test", "rules", path) == ""


def test_every_alert_has_a_case_that_fires_and_one_that_stays_silent() -> None:
    assert {name: cases for name, cases in tried().items() if set(cases) != {True, False}} == {}


def test_cases_are_named_after_what_they_try() -> None:
    for path in CASES:
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            (expected,) = case["alert_rule_test"]
            does = "fires" if expected["exp_alerts"] else "is silent"
            assert case["name"].startswith(f"{expected['alertname']} {does}: ")


def test_there_are_alerts_and_records() -> None:
    """Otherwise the tests above look at nothing."""
    assert len(ALERTS) >= 20
    assert len(ALERTS) < len(EVERY)
    assert len({rule.get("alert", rule.get("record")) for rule in EVERY}) == len(EVERY)


@each_alert
def test_an_alert_says_how_bad_it_is_and_what_is_wrong(name: str) -> None:
    rule = ALERTS[name]
    assert set(rule["labels"]) == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["description"].endswith(".")
    assert not rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"


@pytest.mark.parametrize("rule", EVERY, ids=[rule.get("alert", rule.get("record")) for rule in EVERY])
def test_a_rule_is_about_metrics_that_exist(rule: dict[str, Any]) -> None:
    recorded = {other["record"] for other in EVERY if "record" in other}
    known = set(re.findall(r"`(\w+)`", CATALOGUE))
    expression = rule["expr"]
    for name in re.findall(r"\b(?:job|instance):[\w:]+", expression):
        assert name in recorded
        expression = expression.replace(name, "")
    for name in METRIC.findall(expression):
        assert {name, re.sub(r"_(bucket|count|sum)$", "", name)} & known, f"{name} is not in docs/METRICS.md"


@each_alert
def test_an_alert_has_a_runbook_with_all_of_its_parts(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert f"**{ALERTS[name]['labels']['severity']}**" in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == SECTIONS
    for part in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]:
        assert len(part.split()) >= 10


def test_there_is_no_runbook_without_an_alert_and_the_index_has_all() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {"README", *ALERTS}
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \|", index, flags=re.MULTILINE)
    assert {(name, page, severity) for name, page, severity in rows} == {
        (name, name, rule["labels"]["severity"]) for name, rule in ALERTS.items()
    }


@each_alert
def test_what_a_runbook_names_exists(name: str) -> None:
    """Metrics, settings, commands and pages."""
    from node.settings import Settings

    text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    for metric in METRIC.findall(text):
        base = re.sub(r"_(bucket|count|sum)$", "", metric)
        assert f"`{base}`" in CATALOGUE or f"`{metric}`" in CATALOGUE, metric
    for variable in re.findall(r"\bAIP_([A-Z_]+)\b", text):
        assert variable.lower() in Settings.model_fields, variable
    for command in re.findall(r"\bscripts/([\w-]+)", text):
        assert (ROOT / "scripts" / command).exists(), command
    for page in re.findall(r"\]\(([^)#]+)", text):
        assert (RUNBOOKS / page).exists(), page
