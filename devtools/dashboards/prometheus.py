"""A real Prometheus for minutes: scrapes some targets every second, evaluates the rules, answers queries.

It keeps its data in a folder of the caller's and dies with this process. What it logs is in `prometheus.log` there.
"""

import contextlib
import math
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import yaml

from devtools.bootstrap import ROOT
from devtools.outcome import Exit, ScriptError
from devtools.processes import spawn, stop
from devtools.servers import search_path
from devtools.topologies import free_port
from devtools.web import Answer, ask, wait_until_ready

__all__ = ["RULES", "Prometheus", "QueryFailed", "Series", "prometheus_program"]

RULES = ROOT / "helm" / "aip-cluster" / "rules" / "aip-cluster.rules.yaml"
HOST = "127.0.0.1"
EVERY_S = 1
READY_S = 30.0


class QueryFailed(Exception):
    """Prometheus refused a query; the text is its own."""


@dataclass(frozen=True)
class Series:
    """One series of an answer: its labels, and points as (seconds since the epoch, value)."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]

    @property
    def last(self) -> float:
        """The latest value."""
        return self.points[-1][1]

    @property
    def says_something(self) -> bool:
        """Whether any point is a number: a quantile of nothing is not."""
        return any(math.isfinite(value) for _, value in self.points)


def prometheus_program() -> str | None:
    """The program, None if it is not installed."""
    return shutil.which("prometheus", path=search_path())


class Prometheus:
    """Answers queries while its context `running` lasts."""

    def __init__(self, url: str) -> None:
        self._url = url

    @classmethod
    @contextlib.contextmanager
    def running(cls, directory: Path, targets: Sequence[str], labels: Mapping[str, str]) -> Iterator["Prometheus"]:
        """Scrapes `targets` (host:port), whose series get `labels`. Raises ScriptError if it does not start."""
        program = prometheus_program()
        if program is None:
            raise ScriptError(Exit.MISSING, "there is no prometheus here: install the package of that name")
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        config = directory / "prometheus.yml"
        config.write_text(yaml.safe_dump(_configuration(targets, labels)), encoding="utf-8")
        command = [program, f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"]
        command += [f"--web.listen-address={HOST}:{port}", "--log.level=warn", "--enable-feature=exemplar-storage"]
        # A sample that was scraped a moment ago is to be seen.
        command += ["--query.lookback-delta=30s"]
        child = spawn(
            "prometheus",
            command,
            log=directory / "prometheus.log",
            env={},
            cwd=directory,
            die_with_parent=signal.SIGKILL,
        )
        try:
            wait_until_ready(child, f"http://{HOST}:{port}/-/ready", within_s=READY_S)
            yield cls(f"http://{HOST}:{port}")
        finally:
            stop([child.process], hurry=lambda: True)
            child.handle.wait()

    def query(self, promql: str, at: float) -> list[Series]:
        """The query at a time, seconds since the epoch. Raises QueryFailed."""
        data = self._get("query", query=promql, time=at)
        if data["resultType"] == "scalar":
            return [Series({}, [_point(data["result"])])]
        return [Series(found["metric"], [_point(found["value"])]) for found in data["result"]]

    def query_range(self, promql: str, since: float, until: float, step_s: float) -> list[Series]:
        """The query over a time. Raises QueryFailed."""
        data = self._get("query_range", query=promql, start=since, end=until, step=step_s)
        return [Series(found["metric"], [_point(p) for p in found["values"]]) for found in data["result"]]

    def label_values(self, label: str, series: str) -> list[str]:
        """What Grafana offers for `label_values(series, label)`."""
        return cast("list[str]", self._get(f"label/{label}/values", **{"match[]": series}))

    def rule_groups(self) -> list[dict[str, Any]]:
        """The rules as they were evaluated last."""
        return cast("list[dict[str, Any]]", self._get("rules")["groups"])

    def _get(self, path: str, **parameters: object) -> Any:
        answer: Answer = ask("GET", f"{self._url}/api/v1/{path}?{urlencode(parameters)}", timeout_s=30)
        if not isinstance(answer.body, dict) or answer.body.get("status") != "success":
            raise QueryFailed(str(answer))
        return answer.body["data"]


def _point(pair: Sequence[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def _configuration(targets: Sequence[str], labels: Mapping[str, str]) -> dict[str, Any]:
    every = f"{EVERY_S}s"
    others = {key: value for key, value in labels.items() if key != "job"}
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": labels.get("job", "aip"), "static_configs": [{"targets": list(targets), "labels": others}]}
        ],
    }
