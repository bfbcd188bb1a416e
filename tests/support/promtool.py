"""Prometheus' own tool, which knows what a metric may look like."""

import shutil
import subprocess

from tests.support.required import require

__all__ = ["check_metrics", "promtool"]

CHECK_S = 30.0


def promtool() -> str:
    """The program. Without it the test is skipped, or fails where servers are required."""
    return require(shutil.which("promtool"), "promtool")


def check_metrics(exposition: str) -> str:
    """What `promtool check metrics` complains of; nothing if the exit code is 0 and nothing was said."""
    done = subprocess.run(
        [promtool(), "check", "metrics"], input=exposition, capture_output=True, text=True, timeout=CHECK_S, check=False
    )
    said = (done.stdout + done.stderr).strip()
    return said or ("" if done.returncode == 0 else f"exit code {done.returncode}")
