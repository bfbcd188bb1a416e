"""`scripts/chaos` for a moment: a fixed seed on a single Redis. The long runs are in docs/RELIABILITY.md."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.harness.nginx import nginx_binary
from tests.integration.harness.processes import ROOT, clean_environment
from tests.support.redis_server import require_redis

pytestmark = pytest.mark.integration

SEED = 8
SECONDS = 12
PATIENCE_S = 240


def test_a_short_run_finds_no_violation(tmp_path: Path) -> None:
    require_redis()
    nginx_binary()
    command = [sys.executable, "-m", "devtools.chaos", "--redis", "single", "--devices", "6"]
    command += ["--seed", str(SEED), "--seconds", str(SECONDS), "--out", str(tmp_path)]
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{done.stdout[-12_000:]}\n{done.stderr[-4_000:]}"
    report = json.loads((tmp_path / f"chaos-single-{SEED}.json").read_text(encoding="utf-8"))
    assert report["violations"] == []
    # A run in which nothing broke, or nothing was accepted, would prove nothing.
    assert len(report["faults"]) >= 5
    assert {fault["fault"]["kind"].partition("-")[0] for fault in report["faults"]} >= {"node", "redis", "device"}
    assert int(report["summary"]["accepted"]) >= 50
