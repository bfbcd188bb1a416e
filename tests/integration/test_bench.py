"""`scripts/bench --quick`: it measures everything that it should, and what it leaves can be read again. No timings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_server import require_redis

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0
COMMAND = "import sys; from devtools.bench.command import main; raise SystemExit(main(sys.argv[1:]))"


def bench(*arguments: str) -> str:
    """What the command prints; it must succeed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", COMMAND, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=ROOT, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def needed() -> None:
    require_redis()


def rows_of(directory: Path) -> dict[str, Any]:
    content = json.loads((directory / "results.json").read_text())
    return {row["name"]: row for row in content["rows"]}


def test_all_contestants_do_their_work_and_are_compared(tmp_path: Path) -> None:
    bench("dispatch", "latency", "--quick", "--out", str(tmp_path))
    rows = rows_of(tmp_path)
    assert set(rows) == {"dispatch", "latency"}
    contestants = rows["dispatch"]["details"]
    assert set(contestants) == {"cluster", "reference", "python-socketio", "bare Starlette"}
    for name, tries in contestants.items():
        load = tries[0]["load"]
        assert load["tasks"] == 200
        assert load["answered_per_s"] > 0
        assert (load["completed_per_s"] > 0) is (name == "cluster")
        assert (load["delivered_per_s"] > 0) is (name != "bare Starlette")
    compared = bench("--from", str(tmp_path / "results.json"), "--before", str(tmp_path / "results.json"))
    assert "| before | after |" in compared
    assert "python-socketio, tasks/s" in compared


def test_every_command_of_a_task_is_counted(tmp_path: Path) -> None:
    bench("commands", "--quick", "--out", str(tmp_path))
    row = rows_of(tmp_path)["commands"]
    sent, keys = row["details"]["sent_per_task"], row["details"]["by_key_per_task"]
    assert 1 <= sum(sent.values()) < 100
    assert keys["aip:session:{}"] >= 1
    assert keys["aip:client:{}"] >= 1
    assert sum(keys.values()) >= sum(sent.values())
    assert row["details"]["client_bytes_per_task"] > 100
    assert {"aip:session:{}", "aip:client:{}"} <= set(row["details"]["us_by_key_per_task"])


def test_a_fleet_is_listed_while_others_are_served(tmp_path: Path) -> None:
    bench("commands", "--quick", "--out", str(tmp_path))
    bench("listing", "--quick", "--out", str(tmp_path))
    assert set(rows_of(tmp_path)) == {"commands", "listing"}
    for node in rows_of(tmp_path)["listing"]["details"]["rounds"][0]:
        assert len(node["took_ms"]) == 10
        assert node["stall_ms"] > 0
