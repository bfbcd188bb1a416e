"""The fixtures of the tests with real processes, and the logs of those processes in the report of a test that fails."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fault.devices import Agent
from tests.integration.conftest import guests, http, own_cluster, pytest_runtest_makereport, pytest_runtest_setup
from tests.integration.harness.guests import unique

__all__ = ["agent", "guests", "http", "own_cluster", "pytest_runtest_makereport", "pytest_runtest_setup"]

MakeAgent = Callable[[str], Agent]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[MakeAgent]:
    """Starts a real device agent, connected to the address given."""
    agents: list[Agent] = []

    def start(ws_url: str) -> Agent:
        found = Agent(unique("agent"), tmp_path / f"agent-{len(agents)}", ws_url)
        agents.append(found)
        found.launch()
        return found

    yield start
    for found in agents:
        found.release()
        found.dispose()
