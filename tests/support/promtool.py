"""Prometheus' own tool, which knows what a metric may look like."""

import os
import shutil
import subprocess

import pytest

__all__ = ["check_metrics", "promtool"]

CHECK_S = 30.0


def promtool() -> str:
    """The program. Without it the test is skipped, or fails where servers are required."""
    program = shutil.which("promtool")
    if program is None:
        if os.environ.get("AIP_TEST_REQUIRE_SERVERS", "0") not in {"", "0"}:
            pytest.fail("promtool is required (AIP_TEST_REQUIRE_SERVERS is set) and not installed")
        pytest.skip("promtool is not installed")
    return program


def check_metrics(exposition: str) -> str:
    """What `promtool check metrics` complains of; nothing if the exit code is 0 and nothing was said."""
    done = subprocess.run(
        [promtool(), "check", "metrics"], input=exposition, capture_output=True, text=True, timeout=CHECK_S, check=False
    )
    said = (done.stdout + done.stderr).strip()
    return said or ("" if done.returncode == 0 else f"exit code {done.returncode}")
