"""Ports for servers of ours: free, and not given to two test runs at once."""

import subprocess
import sys
from pathlib import Path

from devtools.topologies import free_port, free_ports
from devtools.topologies.ports import PORTS

ROOT = Path(__file__).resolve().parents[3]
ASK = (
    "import sys; from devtools.topologies import ports; ports.PORTS = range(int(sys.argv[1]), int(sys.argv[2]))\n"
    "print(ports.free_port())"
)


def asked_elsewhere(first: int, last: int) -> subprocess.CompletedProcess[str]:
    """What another process is given of these ports."""
    return subprocess.run(
        [sys.executable, "-c", ASK, str(first), str(last + 1)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_a_port_is_given_once() -> None:
    given = [free_port() for _ in range(50)]
    assert len(set(given)) == 50
    assert set(given) <= set(PORTS)


def test_what_one_process_was_given_no_other_is_given_though_nobody_listens() -> None:
    base = free_ports((0, 1))
    refused = asked_elsewhere(base, base + 1)
    assert refused.returncode != 0
    assert "no free port" in refused.stderr


def test_the_ports_of_a_process_that_has_ended_are_given_again() -> None:
    taken = free_port()
    for port in range(taken + 1, taken + 100):
        # One that somebody has, or takes between the two, says nothing.
        if [asked_elsewhere(port, port).stdout for _ in range(2)] == [f"{port}\n"] * 2:
            return
    raise AssertionError("no port near was given twice")
