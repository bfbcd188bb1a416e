"""The image and compose.yaml, built and run by a real container engine: `scripts/containers`, wherever one can run."""

import subprocess

import pytest

from devtools.containers.engine import NO_ENGINE
from devtools.outcome import Exit
from tests.integration.harness.processes import ROOT
from tests.support.required import are_required

pytestmark = pytest.mark.integration

# On a machine with nothing installed, and others at work on it.
PATIENCE_S = 1200.0


def test_the_image_and_compose_hold_what_they_promise() -> None:
    """Tasks through nginx, a container that is drained, one that is killed, Prometheus, and nothing left afterwards."""
    command = [ROOT / "scripts" / "containers"]
    script = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said, complaint = script.communicate(timeout=PATIENCE_S)
    finally:
        # Of an interrupted test as well: killed, it could not take its containers down.
        script.terminate()
        script.wait()
    # Where no engine can run, nothing is asked of it; where one can, its images need Debian's packages.
    if script.returncode == NO_ENGINE or (script.returncode == Exit.MISSING and not are_required()):
        pytest.skip(complaint.strip())
    assert script.returncode == Exit.OK, said + complaint
    print(said)
