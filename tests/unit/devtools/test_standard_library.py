"""Commands that install the project run before any package is there."""

import subprocess
import sys

import pytest

from devtools.bootstrap import ROOT


@pytest.mark.parametrize("command", ["up", "down", "gate"])
def test_commands_that_install_need_only_the_standard_library(command: str) -> None:
    """`-S` leaves out everything that was installed."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import devtools.{command}"
    subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True)
